"""ViewFiles: what a boot's sysfs and debugfs would show, as files under the node's root, for `cat`.

A file is replaced as a whole. Nobody reads one back: writing to debugfs is a word of control's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path


class ViewFiles:
    """One node's.

    Args:
        root: its root directory. `sys/` in it is this one's: what an earlier kernel process left is removed.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._shown: dict[str, str] = {}
        self.close()

    def show(self, views: Mapping[str, str]) -> None:
        """Make the files what they should be. Raises OSError.

        Args:
            views: absolute path, as on a real node → content.
        """
        for path in self._shown.keys() - views.keys():
            self._file(path).unlink(missing_ok=True)
            del self._shown[path]
        for path, text in views.items():
            if self._shown.get(path) == text:
                continue
            file = self._file(path)
            file.parent.mkdir(parents=True, exist_ok=True)
            fresh = file.parent / f".{file.name}.new"
            fresh.write_text(text, encoding="utf-8")
            os.replace(fresh, file)
            self._shown[path] = text

    def close(self) -> None:
        """Nothing is shown, and no folder is left."""
        self._shown = {}
        shutil.rmtree(self._root / "sys", ignore_errors=True)

    def _file(self, path: str) -> Path:
        return self._root / path.removeprefix("/")
