"""What a cold boot starts: drivers of ports.DefaultKernel.

- HookDriver: this node's own command, which knows its boot loader. The first driver, for real nodes.
- A second one, the emulated firmware's, is in the composition of emulated nodes (app_emulated.py).
- NoDriver: nothing is configured. A power cut then boots the kernel of before, also after COMMIT.
"""

from __future__ import annotations

from node_agent.ports import BootChoice
from node_agent.workloads.hooks import CommandHooks

HOOK = "set_default_kernel"


class HookDriver:
    """The command `hooks.set_default_kernel`. What to start is in its environment:

    LIVEROLL_ARTIFACT (digest), LIVEROLL_RELEASE, LIVEROLL_KERNEL and LIVEROLL_INITRD (files in the node's
    artifact cache, the second may be empty), LIVEROLL_COMMAND_LINE.
    """

    def __init__(self, hooks: CommandHooks) -> None:
        self._hooks = hooks

    async def choose(self, choice: BootChoice) -> None:
        """Raises HookFailed."""
        await self._hooks.demand(
            HOOK,
            LIVEROLL_ARTIFACT=choice.digest,
            LIVEROLL_RELEASE=choice.release,
            LIVEROLL_KERNEL=choice.kernel_path,
            LIVEROLL_INITRD=choice.initrd_path,
            LIVEROLL_COMMAND_LINE=choice.command_line,
        )


class NoDriver:
    """Leaves it as it is."""

    async def choose(self, choice: BootChoice) -> None:
        """Nothing is done."""
