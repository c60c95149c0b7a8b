"""Typed access to what was set, wherever it was: each value fits, or is a violation with its place.

Not here: where values come from (settings_sources.py), and which of them make sense together
(settings_load.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from node_agent.settings import LABEL_KEY, LABEL_VALUE_MAX, Violation

_FLAGS = {"labels": "--label", "artifacts.running": "--running-artifact", "emulated.services": "--service"}


def flag_name(key: str) -> str:
    """The command line's flag of a key: tls.ca → --tls-ca, emulated.kexec_s → --kexec-s."""
    words = key.removeprefix("emulated.").replace(".", "-").replace("_", "-")
    return _FLAGS.get(key, f"--{words}")


class Reader:
    """Typed access to the collected values; what does not fit becomes a violation."""

    def __init__(self, values: Mapping[str, tuple[str, object]], faults: list[Violation]) -> None:
        self._values = values
        self.faults = faults

    def said(self, key: str) -> bool:
        return key in self._values

    def where(self, key: str) -> str:
        return self._values[key][0] if key in self._values else key

    def fault(self, key: str, problem: str, remedy: str) -> None:
        self.faults.append(Violation(self.where(key), problem, remedy))

    def text(self, key: str, default: str) -> str:
        if key not in self._values:
            return default
        value = self._values[key][1]
        if not isinstance(value, str):
            self.fault(key, f"{value!r} is not a string", "put it in quotes")
            return default
        return value.strip()

    def choice(self, key: str, default: str, allowed: tuple[str, ...]) -> str:
        value = self.text(key, default)
        if value not in allowed:
            self.fault(
                key, f"{value!r} is none of {', '.join(allowed)}", f"take one of them, for instance {default}"
            )
        return value

    def path(self, key: str) -> Path | None:
        value = self._values[key][1] if key in self._values else ""
        if isinstance(value, Path):
            value = str(value)
        if not isinstance(value, str):
            self.fault(key, f"{value!r} is not a path", "put it in quotes")
            return None
        return Path(value).expanduser().absolute() if value else None

    def positive(self, key: str, default: int) -> int:
        value = self._values[key][1] if key in self._values else default
        try:
            number = int(value) if isinstance(value, str) else value
        except ValueError:
            number = None
        if isinstance(number, bool) or not isinstance(number, int) or number <= 0:
            self.fault(key, f"{value!r} is not a positive whole number", f"for instance {default}")
            return default
        return number

    def number(self, key: str, default: float, most: float) -> float:
        value = self._values[key][1] if key in self._values else default
        try:
            number = float(value) if isinstance(value, str | int | float) else -1.0
        except ValueError:
            number = -1.0
        if isinstance(value, bool) or not 0 <= number <= most:
            self.fault(key, f"{value!r} is not within 0 and {most:g}", f"for instance {default:g}")
            return default
        return number

    def words(self, key: str) -> tuple[str, ...]:
        value = self._values[key][1] if key in self._values else []
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
            self.fault(key, f"{value!r} is not a list of commands", 'write ["command argument", …]')
            return ()
        return tuple(value)

    def listed(self, key: str, what: str, example: str) -> tuple[str, ...]:
        """A list, or one string with commas."""
        value = self._values[key][1] if key in self._values else []
        value = value.split(",") if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            self.fault(key, f"{value!r} is not a list of {what}", f"write {example}")
            return ()
        return tuple(dict.fromkeys(v.strip() for v in value if v.strip()))

    def labels(self) -> Mapping[str, str]:
        value = self._values["labels"][1] if "labels" in self._values else {}
        if isinstance(value, str):
            value = [part for part in value.split(",") if part.strip()]
        if isinstance(value, list | tuple):
            pairs = [str(part).partition("=") for part in value]
            for key, equals, _ in pairs:
                if not equals:
                    self.fault("labels", f"{key!r} is not key=value", "for instance zone=a")
            value = {key.strip(): text.strip() for key, equals, text in pairs if equals}
        if not isinstance(value, dict):
            self.fault("labels", f"{value!r} is not a table", 'write [labels] with lines like zone = "a"')
            return MappingProxyType({})
        for key, text in value.items():
            if not LABEL_KEY.fullmatch(key):
                self.fault(
                    "labels",
                    f"{key!r} is not a label key",
                    "use letters, digits and - _ . / up to 63 characters",
                )
            if not isinstance(text, str) or len(text) > LABEL_VALUE_MAX:
                self.fault(
                    "labels",
                    f"the value of {key} is not a string of up to {LABEL_VALUE_MAX} characters",
                    "shorten it",
                )
        return MappingProxyType({k: str(v) for k, v in value.items()})
