"""Where the CLI writes: tables through rich, or the answer itself as JSON or YAML.

JSON is the proto's own (lowerCamelCase names, durations as "1.5s", instants as RFC 3339, 64-bit
numbers as strings), with every field present, so that scripts may rely on it.
"""

from __future__ import annotations

import enum
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from rich.console import Console, RenderableType


class Format(enum.StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


Output = Annotated[Format, typer.Option("--output", "-o", help="How to print the answer.", show_default=True)]


def console(*, stderr: bool = False) -> Console:
    """Plain and 100 columns wide where nobody watches, so that logs are the same everywhere."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 100
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=False)


def show(message: Message, output: Format, table: RenderableType) -> None:
    """Print an answer in the format asked for."""
    if output is Format.TABLE:
        console().print(table)
    else:
        typer.echo(text_of(message, output), nl=False)


def text_of(message: Message, output: Format) -> str:
    """JSON or YAML, ending in a newline."""
    plain = plain_of(message)
    if output is Format.JSON:
        return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"
    import yaml

    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)


def plain_of(message: Message) -> Any:
    from google.protobuf.json_format import MessageToDict

    return _in_order(MessageToDict(message, always_print_fields_with_no_presence=True), message.DESCRIPTOR)


def _in_order(plain: Any, descriptor: Any) -> Any:
    """Fields as the proto has them, maps by key: the same message is the same text."""
    if not isinstance(plain, dict) or descriptor.full_name.startswith("google.protobuf."):
        return plain
    made: dict[str, Any] = {}
    for field in descriptor.fields:
        if field.json_name not in plain:
            continue
        value, inner = plain[field.json_name], field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            value = dict(sorted(value.items()))
        elif isinstance(value, list) and inner is not None:
            value = [_in_order(item, inner) for item in value]
        elif inner is not None:
            value = _in_order(value, inner)
        made[field.json_name] = value
    return made


def json_line(message: Message) -> str:
    """One line, for streams."""
    return json.dumps(plain_of(message), ensure_ascii=False)
