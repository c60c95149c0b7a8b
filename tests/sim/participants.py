"""Parts of a node's kernel that refuse what LUO and KHO ask of them (RFC v2): a kind of file, a subsystem, a
user of KHO's own.

Rules
1. What may fail, fails whole: nothing is left of it. What cannot be refused (cancel, boot, finish) is done,
   and then complained of.
2. A kernel may refuse some callbacks, the next one others: where each is refused now and then, hardly any
   update comes as far as the later ones. All by chance while faults last, from a generator of its own.
3. A user of KHO's own is there only where KHO calls its users (coupling `notifier`), before LUO or after it.
"""

from __future__ import annotations

import errno
import random
from typing import TYPE_CHECKING

from node_agent.kernel.emulated.rfc2.handlers import Handler, Inode
from node_agent.kernel.emulated.rfc2.states import Coupling

if TYPE_CHECKING:
    from tests.sim.node import SimNode


FILE, SUBSYSTEM, USER = "a file", "a subsystem", "a user of KHO"
BEFORE = (
    *((FILE, call) for call in ("prepare", "freeze", "cancel")),
    *((SUBSYSTEM, call) for call in ("prepare", "freeze", "cancel")),
    *((USER, call) for call in ("finalize", "abort")),
)
AFTER = ((FILE, "retrieve"), (FILE, "finish"), (SUBSYSTEM, "boot"), (SUBSYSTEM, "finish"))
CALLBACKS = (*BEFORE, *AFTER)
"""Of a kexec."""
MINDS_BEFORE, MINDS_AFTER = 2, 2
"""So many of them a kernel may refuse."""


class Moods:
    """Whether a callback is refused, of one node's kernel."""

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self.rng = random.Random(f"moods {node.world.scenario.seed} {node.name} {node.boots}")
        self._minds = {*self.rng.sample(BEFORE, MINDS_BEFORE), *self.rng.sample(AFTER, MINDS_AFTER)}

    def ask(self, who: str, call: str, number: int) -> None:
        """Raises OSError with this errno: refused."""
        world = self._node.world
        if (who, call) in self._minds and world.chaos and self.rng.random() < world.rates.callbacks_refuse:
            self._node.tell(f"{who} refuses {call}")
            world.story.count(f"callback refused: {call} of {who}")
            raise OSError(number, f"{call} of {who}")


class FickleHandler:
    """handlers.Handler: another one's, in a mood."""

    def __init__(self, real: Handler, moods: Moods) -> None:
        self._real, self._moods = real, moods
        self.compatible, self.kind = real.compatible, real.kind

    def can_preserve(self, fd: int) -> bool:
        return self._real.can_preserve(fd)

    def depends_on(self, fd: int) -> tuple[Inode, ...]:
        return self._real.depends_on(fd)

    def prepare(self, fd: int) -> int:
        self._moods.ask(FILE, "prepare", errno.ENOMEM)
        return self._real.prepare(fd)

    def freeze(self, fd: int, data: int) -> int:
        self._moods.ask(FILE, "freeze", errno.EBUSY)
        return self._real.freeze(fd, data)

    def cancel(self, fd: int, data: int) -> None:
        self._real.cancel(fd, data)
        self._moods.ask(FILE, "cancel", errno.EIO)

    def retrieve(self, data: int) -> int:
        self._moods.ask(FILE, "retrieve", errno.EIO)
        return self._real.retrieve(data)

    def finish(self, data: int, *, reclaimed: bool) -> None:
        self._real.finish(data, reclaimed=reclaimed)
        self._moods.ask(FILE, "finish", errno.EIO)


class FickleSubsystem:
    """subsystems.Subsystem: keeps nothing, and minds."""

    name = "fickle"
    automatic = False

    def __init__(self, moods: Moods) -> None:
        self._moods = moods

    def prepare(self) -> int:
        self._moods.ask(SUBSYSTEM, "prepare", errno.ENOMEM)
        return 0

    def freeze(self, data: int) -> int:
        self._moods.ask(SUBSYSTEM, "freeze", errno.EBUSY)
        return data

    def cancel(self, data: int) -> None:
        self._moods.ask(SUBSYSTEM, "cancel", errno.EIO)

    def boot(self, data: int | None) -> None:
        self._moods.ask(SUBSYSTEM, "boot", errno.EIO)

    def finish(self, data: int | None) -> None:
        self._moods.ask(SUBSYSTEM, "finish", errno.EIO)


class FickleUser:
    """kho.Notifier."""

    name = "fickle user"

    def __init__(self, moods: Moods) -> None:
        self._moods = moods

    def on_finalize(self) -> None:
        self._moods.ask(USER, "finalize", errno.ENOMEM)

    def on_abort(self) -> None:
        self._moods.ask(USER, "abort", errno.EBUSY)


def join(node: SimNode) -> None:
    """A kernel has just booted: they are in it, if the seed has them and the kernel LUO."""
    facts, rfc2 = node.emulated.model.facts(), node.emulated.model.rfc2
    count, before, node.coupling = node.world.story.count, node.coupling, facts.coupling
    if facts.kexec_count and before != facts.coupling:
        count(f"kexec from {before} to {facts.coupling}")
    if node.boots > 1 and not facts.kexec_count:
        count("cold boot")
    if facts.coupling:
        count(f"boot of RFC v2, {facts.coupling}")
    if rfc2 is None or rfc2.luo is None or not node.world.rates.callbacks_refuse:
        return
    moods = Moods(node)
    rfc2.files.handlers = [FickleHandler(handler, moods) for handler in rfc2.files.handlers]
    for file in rfc2.files.incoming.values():
        file.handler = FickleHandler(file.handler, moods)
    rfc2.subsystems.register(FickleSubsystem(moods), rfc2.luo.state)
    if rfc2.luo.coupling is Coupling.NOTIFIER:
        # Before LUO it is asked last to abort: LUO is normal then, and KHO may stay final.
        rfc2.kho.chain.insert(moods.rng.choice((0, len(rfc2.kho.chain))), FickleUser(moods))
