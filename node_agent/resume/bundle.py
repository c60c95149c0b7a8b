"""The early init's code in one file: what it would import, compiled, without docstrings.

Looking for twenty modules, and opening each, takes a slow machine a twentieth of a second in the
blackout. So the agent writes them at each start into one file beside resume.conf, which init.py runs
if it is of its own Python; else, or without it, the plain modules are imported.

The file: the interpreter's pyc magic, then marshal data: a list of (name, code). Written atomically,
mode 0600, and only if it differs. Not on the blackout path itself.
"""

from __future__ import annotations
import __future__

import ast
import importlib.util
import marshal
import os
from pathlib import Path

BUNDLE = "/var/lib/liveroll-agent/resume.bundle"
"""Where init.py looks for it."""

ENTRY = "node_agent.resume.early"
PACKAGES = ("node_agent", "node_agent.kernel", "node_agent.kernel.emulated", "node_agent.resume")
"""As empty modules: their docstrings are all that is in them."""


def build() -> bytes:
    """The file's content for this interpreter."""
    code = [(name, _compile("", name)) for name in PACKAGES]
    code += [(name, _compile(_source(name), name)) for name in closure(ENTRY)]
    return importlib.util.MAGIC_NUMBER + marshal.dumps(code)


def write(path: str = BUNDLE) -> bool:
    """Make the file say this; whether it had to be written. Raises OSError."""
    data, file = build(), Path(path)
    if file.is_file() and file.read_bytes() == data:
        return False
    beside = file.with_name(file.name + ".new")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    beside.replace(file)
    return True


def closure(name: str) -> list[str]:
    """The modules of this distribution that a module imports, itself last: what is needed first."""
    found: list[str] = []
    _visit(name, found, set())
    return found


def _visit(name: str, found: list[str], seen: set[str]) -> None:
    if name in seen or name in PACKAGES:
        return
    seen.add(name)
    for node in ast.walk(_strip(ast.parse(_source(name)))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("node_agent"):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                _visit(inner if node.module in PACKAGES else str(node.module), found, seen)
    found.append(name)


def _source(name: str) -> str:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8")


def _compile(source: str, name: str) -> object:
    flags = __future__.annotations.compiler_flag
    tree = _strip(ast.parse(source))
    return compile(tree, f"<{name}>", "exec", flags=flags, dont_inherit=True, optimize=2)


def _strip(tree: ast.Module) -> ast.Module:
    """Without the import of __future__, which is a file too, and what is only for type checkers."""
    tree.body = [node for node in tree.body if not (_is_future(node) or _is_typing(node))]
    return tree


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _is_typing(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
