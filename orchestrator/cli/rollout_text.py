"""A YAML file as plain data whose scalars stay text, and the line of every path in it.

YAML would read 22:30 as a number, no as false and 1e3 as a float; a rollout file means what
stands there. Aliases and repeated keys are refused: the first hide what is meant, the second
lose it.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from orchestrator.cli.failure import Violation

MAX_BYTES = 1024 * 1024
"""Twenty thousand node names fit; more is another file."""
_PART = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


class Document:
    """One file. data: what it says. violations: what is wrong with it as YAML."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.violations: list[Violation] = []
        self.data: Any = {}
        self._root: yaml.Node | None = None
        try:
            self._root = self._compose(text)
            if self._root is not None:
                self.data = self._plain(self._root, "")
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 0
            problem = " ".join(filter(None, (error.context, error.problem)))
            self._bad("", f"not YAML: {problem}", "Mend the line, its indentation or its quotes.", line)
        except (yaml.YAMLError, ValueError) as error:
            self._bad("", f"not YAML: {error}", "Write plain text in UTF-8.", 0)
        except RecursionError:
            self._bad("", "it is nested too deeply", "A rollout file has a handful of levels.", 1)

    def _compose(self, text: str) -> yaml.Node | None:
        loader = yaml.SafeLoader(text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()

    def _bad(self, path: str, problem: str, remedy: str, line: int) -> None:
        self.violations.append(Violation(path, problem, remedy, self.file, line))

    def _plain(self, node: yaml.Node, path: str) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return None if node.style is None and node.value in _NULLS else node.value
        if isinstance(node, yaml.SequenceNode):
            return [self._child(item, f"{path}[{i}]") for i, item in enumerate(node.value)]
        data: dict[str, Any] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            below = f"{path}.{name}" if path else name
            if name in data:
                self._bad(below, "it stands there twice", "Keep one.", key.start_mark.line + 1)
            read = self._child(value, below)
            if read is not None:
                data[name] = read
        return data

    def _child(self, node: yaml.Node, path: str) -> Any:
        seen = self.__dict__.setdefault("_seen", set())
        if id(node) in seen:
            self._bad(path, "an alias", "Write the value out.", node.start_mark.line + 1)
            return None
        seen.add(id(node))
        return self._plain(node, path)

    def line_of(self, path: str) -> int:
        """The line of a path such as gates[0].blackout.max, or of its nearest parent that is there."""
        node, line = self._root, 1
        for name, index in _PART.findall(path):
            found = _step(node, name, index)
            if found is None:
                break
            node, line = found
        return line


def _step(node: yaml.Node | None, name: str, index: str) -> tuple[yaml.Node, int] | None:
    if isinstance(node, yaml.MappingNode):
        pairs = node.value
        if index and int(index) < len(pairs):
            key, value = pairs[int(index)]
            return value, key.start_mark.line + 1
        for key, value in pairs:
            if key.value == name or (isinstance(key.value, str) and key.value.lower() == name.lower()):
                return value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and index and int(index) < len(node.value):
        item = node.value[int(index)]
        return item, item.start_mark.line + 1
    return None
