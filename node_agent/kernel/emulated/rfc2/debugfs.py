"""/sys/kernel/debug/kho/out/finalize: KHO by hand, for who debugs it.

Rules
1. Without CONFIG_KHO_DEBUGFS the file is not there: ENOENT.
2. With the coupling `notifier` it does what LUO's PREPARE and CANCEL do: KHO calls back into LUO. What LUO or
   another user of KHO answers is the write's errno.
3. Where LUO alone drives KHO it can be read, and writing it is EOPNOTSUPP: not a matter of privilege, so no
   EPERM.

Source: kho_out_finalize_set and _get of kernel/kexec_handover.c; any number but 0 finalizes.
"""

from __future__ import annotations

import errno

from node_agent.kernel.emulated.rfc2.kho import Kho
from node_agent.kernel.emulated.rfc2.states import Coupling

FINALIZE_PATH = "kho/out/finalize"
"""Below /sys/kernel/debug."""
READ, WRITE = "read(debugfs)", "write(debugfs)"


class KhoDebugfs:
    """One boot's.

    Args:
        built: CONFIG_KHO_DEBUGFS.
    """

    def __init__(self, kho: Kho, coupling: Coupling, *, built: bool) -> None:
        self._kho = kho
        self._coupling = coupling
        self._built = built

    def read(self, path: str) -> str:
        """What `cat` shows. Raises OSError: ENOENT."""
        self._find(path, READ)
        return f"{int(self._kho.finalized)}\n"

    def write(self, path: str, value: str) -> None:
        """`echo VALUE`. Raises OSError: ENOENT (no such file; or 0, and KHO is not finalized), EINVAL (no
        number; or LUO is in another state), EOPNOTSUPP, EEXIST (it is finalized), a notifier's errno."""
        self._find(path, WRITE)
        if self._coupling is Coupling.LUO_DRIVEN:
            raise OSError(errno.EOPNOTSUPP, WRITE)
        try:
            number = int(value, 0)
        except ValueError as cause:
            raise OSError(errno.EINVAL, WRITE) from cause
        if number:
            self._kho.finalize()
        else:
            self._kho.abort()

    def _find(self, path: str, call: str) -> None:
        if not self._built or path != FINALIZE_PATH:
            raise OSError(errno.ENOENT, call)
