"""`make bench`: runs the benchmarks and prints each figure beside its raw limit. Nothing here is a test."""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from tests.bench.result import Result

MODULES = ("plan", "store", "link", "startup", "updates")
LAB = "lab"
"""Only by name: it takes real kernels, and ten minutes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module", nargs="*", help=f"which of {', '.join(MODULES)} (default: all), or {LAB}")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    options = parser.parse_args()
    unknown = set(options.module) - {*MODULES, LAB}
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join((*MODULES, LAB))}")
    # An exit like any other, so that every bench ends its children on its way out.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    results: list[Result] = []
    for name in options.module or MODULES:
        results.extend(importlib.import_module(f"tests.bench.{name}").run())
    if options.output == "json":
        print(json.dumps([asdict(result) | {"ratio": result.ratio} for result in results], indent=2))
        return
    table = Table(title="Liveroll benchmarks (ratios against the raw limit of the same run)")
    for column in ("what", "figure", "beside", "its figure", "ratio", "aim"):
        table.add_column(column, justify="right" if column in ("figure", "its figure", "ratio") else "left")
    for r in results:
        table.add_row(
            r.name,
            f"{r.value:,.4g} {r.unit}",
            r.beside,
            f"{r.limit:,.4g} {r.unit}" if r.limit else "",
            f"{r.ratio:.2f} ×" if r.ratio is not None else "",
            r.aim,
        )
    Console(width=150).print(table)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
