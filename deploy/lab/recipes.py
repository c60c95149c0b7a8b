"""What each of the lab's kernels is: its source, its difference from the fragment, its edits.

The order is the order of building in one object folder. What differs least comes first: `a` and `b`
only in a name, `slow` and `otherabi` in a file or two, `nomemfd` in one option; `nokho` changes
headers that a tenth of the objects include, so it is last. Kernels of the newer source have a
folder of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from deploy.lab.edits import Edit

BUILD = 1
"""Part of every key: to be raised when the way of building changes what comes out."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One kernel. options: over the fragment; newer: of the newer source."""

    name: str
    newer: bool = False
    options: tuple[tuple[str, str], ...] = ()
    edits: tuple[Edit, ...] = ()

    def asked(self, fragment: Mapping[str, str]) -> dict[str, str]:
        """All options that the kernel's .config must have in the end."""
        return {**fragment, **dict(self.options), "LOCALVERSION": f'"-luo-{self.name}"'}


_OTHER_ABI = Edit(
    "include/linux/kho/abi/luo.h",
    '#define LUO_ABI_COMPATIBLE\t"luo-v',
    '#define LUO_ABI_COMPATIBLE\t"luo-v9',
)
"""luo-v5 becomes luo-v95: a number no kernel has, and as long a field as before."""

_SESSIONS = "kernel/liveupdate/luo_session.c"

_SLOW_KNOBS = Edit(
    _SESSIONS,
    "static DECLARE_RWSEM(luo_session_serialize_rwsem);\n",
    """static DECLARE_RWSEM(luo_session_serialize_rwsem);

/* Lab only: hold, and then fail, a live update whose files are all frozen. */
#include <linux/delay.h>
#include <linux/moduleparam.h>
static unsigned int luo_lab_reboot_delay_ms;
core_param(luo_lab_reboot_delay_ms, luo_lab_reboot_delay_ms, uint, 0644);
static unsigned int luo_lab_reboot_fail;
core_param(luo_lab_reboot_fail, luo_lab_reboot_fail, uint, 0644);
""",
)
"""core_param: on the command line under this name, and in /sys/module/kernel/parameters."""

_SLOW_REBOOT = Edit(
    _SESSIONS,
    """	if (sh->count > 0)
		*sh->sessions_pa = kho_block_set_head_pa(&sh->block_set);
	up_write(&sh->rwsem);
""",
    """	if (luo_lab_reboot_delay_ms) {
		pr_notice("lab: frozen, waiting %u ms\\n", luo_lab_reboot_delay_ms);
		msleep(luo_lab_reboot_delay_ms);
	}
	if (luo_lab_reboot_fail) {
		pr_notice("lab: failing the live update\\n");
		err = -EBUSY;
		goto err_undo;
	}

	if (sh->count > 0)
		*sh->sessions_pa = kho_block_set_head_pa(&sh->block_set);
	up_write(&sh->rwsem);
""",
)
"""In luo_session_serialize(), which liveupdate_reboot() calls, when every session is frozen; the way out
is its own, which unfreezes them all."""

RECIPES = (
    Recipe("a"),
    Recipe("b"),
    Recipe("slow", edits=(_SLOW_KNOBS, _SLOW_REBOOT)),
    Recipe("otherabi", edits=(_OTHER_ABI,)),
    Recipe("nomemfd", options=(("LIVEUPDATE_MEMFD", "n"),)),
    Recipe(
        "nokho",
        options=(
            ("KEXEC_HANDOVER", "n"),
            ("KEXEC_HANDOVER_DEBUG", "n"),
            ("KEXEC_HANDOVER_DEBUGFS", "n"),
            ("LIVEUPDATE", "n"),
            ("LIVEUPDATE_MEMFD", "n"),
        ),
    ),
    Recipe("c", newer=True),
)


def key(recipe: Recipe, source: str, fragment: Mapping[str, str], compiler: str) -> str:
    """What identifies the built kernel: a change of anything that goes into it changes this."""
    words = {
        "build": BUILD,
        "source": source,
        "options": sorted(recipe.asked(fragment).items()),
        "edits": [(edit.file, edit.old, edit.new) for edit in recipe.edits],
        "compiler": compiler,
    }
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:12]
