"""People who drive LUO of RFC v2: past the agent, in every phase of an attempt, and by luoctl.

Rules
1. Whoever comes first tries all that LUO and KHO must refuse in their state: each is refused, and has changed
   nothing (promise LUO). Then they do one thing that is legal there, or nothing.
2. What they have put into LUO is theirs to take out again (SimNode.by_hand): it is not held against the agent
   until that has cancelled or finished an update after it.
3. Between the agent's last look at LUO and its reboot call nobody gets in: what is done there nobody can see
   (kernel/tokens.py, rule 5).

chaos_luo.py has those who only undo; it came first, and draws as it always did.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from node_agent.app_luo import LuoByHand
from node_agent.core.phases import SETTLED, Phase
from node_agent.errors import AgentError
from node_agent.kernel.emulated.rfc2.debugfs import FINALIZE_PATH
from node_agent.kernel.emulated.rfc2.kernel import Rfc2
from node_agent.kernel.emulated.rfc2.luo import Luo
from node_agent.kernel.emulated.rfc2.states import TRANSITIONS, Coupling, LuoEvent, LuoState
from tests.sim.chaos_luo import luo_of
from tests.sim.draw import NEW, OLD
from tests.sim.node_ports import digest_of

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.world import World

PHASES = tuple(phase for phase in Phase if phase not in SETTLED)
LATE = (Phase.JUMPING, Phase.RETRIEVING, Phase.RESUMING, Phase.VERIFYING, Phase.FINISHING)
"""People wait for these more often: what is done earlier undoes the attempt."""
DOES = {**dict.fromkeys(PHASES, 0.1), **dict.fromkeys((*LATE[2:], Phase.UNWINDING), 0.9)}
"""How often something is done in a phase; what is done in the others hardly leaves an update to go on."""
KEPT = 24
"""People who wait at the same time."""
PATIENCE_S = 200.0
"""Somebody whose luoctl does not answer goes away: its agent may have died."""
ERRANDS = (
    ("state", "list", "telemetry"),
    ("preserve", "prepare", "list", "cancel"),
    ("prepare", "freeze", "cancel"),
    ("prepare", "kexec"),
    ("preserve", "prepare", "freeze", "kexec"),
    ("finish",),
    ("cancel", "finish", "freeze", "prepare", "cancel"),
)
LEAVE_SOMETHING = ("prepare", "preserve", "finalize")
LEAVES = 0.1
"""Somebody is called away before the next verb."""


def wait(world: World, rng: random.Random) -> None:
    """One more lies in wait for an agent to come into a phase."""
    world.people.append((rng.choice(LATE if rng.random() < 0.6 else PHASES), random.Random(rng.random())))
    del world.people[:-KEPT]


def passing(node: SimNode) -> None:
    """A node's agent is at a point; somebody may have waited for it."""
    people, phase = node.world.people, node.phase
    if not people or not node.world.chaos or (luo := luo_of(node)) is None:
        return
    for person in people:
        if person[0] is phase:
            people.remove(person)
            _fumble(node, luo)
            if person[1].random() < DOES[person[0]]:
                _do_one(node, luo, person[1])
                _fumble(node, luo)
            return


# --- what must be refused ---------------------------------------------------------------


def _fumble(node: SimNode, luo: Luo) -> None:
    rfc2, story = node.emulated.model.rfc2, node.world.story
    assert rfc2 is not None
    before, state = _picture(rfc2, luo), luo.state
    for name, call, expected in _illegal(rfc2, luo):
        try:
            call()
        except OSError as refusal:
            wrong = expected and refusal.errno != expected
            if wrong or _picture(rfc2, luo) != before:
                node.world.violated(
                    "LUO", f"{name} in [{state}] on {node.name} answers {refusal}", node.node_id
                )
        else:
            node.world.violated("LUO", f"{name} in [{state}] on {node.name} is not refused", node.node_id)
        story.count(f"LUO refuses {name} in [{state}]")


def _illegal(rfc2: Rfc2, luo: Luo) -> Iterator[tuple[str, Callable[[], object], int]]:
    """(name, call, errno; 0: any)."""
    events = {
        LuoEvent.PREPARE: luo.prepare,
        LuoEvent.FREEZE: luo.freeze,
        LuoEvent.CANCEL: luo.cancel,
        LuoEvent.FINISH: luo.finish,
    }
    for event, call in events.items():
        if (luo.state, event) not in TRANSITIONS:
            yield event.value, call, errno.EINVAL
    if luo.state is not LuoState.NORMAL:
        yield "FD_PRESERVE", lambda: _preserve(luo), errno.EBUSY
        yield "FD_UNPRESERVE", lambda: luo.fd_unpreserve(0), errno.EBUSY
    if luo.state is not LuoState.UPDATED:
        yield "FD_RESTORE", lambda: luo.fd_restore(0), errno.EBUSY
    finalize, abort = _by_debugfs(rfc2, "1"), _by_debugfs(rfc2, "0")
    if luo.coupling is Coupling.LUO_DRIVEN:
        yield "a finalize through debugfs, luo-driven,", finalize, errno.EOPNOTSUPP
        yield "an abort through debugfs, luo-driven,", abort, errno.EOPNOTSUPP
        return
    if rfc2.kho.finalized or luo.state is LuoState.UPDATED:
        yield "a finalize through debugfs, notifier,", finalize, errno.EEXIST if rfc2.kho.finalized else 0
    if not rfc2.kho.finalized:
        yield "an abort through debugfs, notifier,", abort, errno.ENOENT


def _by_debugfs(rfc2: Rfc2, value: str) -> Callable[[], None]:
    return lambda: rfc2.debugfs_write(FINALIZE_PATH, value)


def _picture(rfc2: Rfc2, luo: Luo) -> tuple[object, ...]:
    """All that a refused call may not change."""
    files = rfc2.files
    return (
        luo.state,
        rfc2.kho.finalized,
        sorted(rfc2.kho.tree),
        [(token, file.data) for token, file in files.outgoing.items()],
        [(token, file.reclaimed, file.errno) for token, file in files.incoming.items()],
        rfc2.memory.addresses(),
    )


# --- what is legal, and is nobody's business but the agent's -----------------------------------


def _do_one(node: SimNode, luo: Luo, rng: random.Random) -> None:
    rfc2 = node.emulated.model.rfc2
    assert rfc2 is not None
    name, call = rng.choice(_legal(node, rfc2, luo, rng))
    node.tell(f"somebody drives LUO while the agent is {node.phase}: {name}")
    try:
        call()
    except OSError as refusal:
        # A participant has refused, as it may.
        node.world.story.count(f"LUO driven by hand is refused: {name}")
        node.tell(f"{name} is refused: {refusal}")
    else:
        node.world.story.count(f"LUO driven by hand: {name}")
        node.world.story.count(f"LUO driven by hand in {node.phase}")
        node.by_hand = node.by_hand or name in LEAVE_SOMETHING


def _legal(node: SimNode, rfc2: Rfc2, luo: Luo, rng: random.Random) -> list[tuple[str, Callable[[], object]]]:
    """What the state admits."""
    found: list[tuple[str, Callable[[], object]]] = []
    notifier = luo.coupling is Coupling.NOTIFIER
    match luo.state:
        case LuoState.NORMAL:
            if not rfc2.kho.finalized:
                found += [("prepare", luo.prepare)]
                found += [("finalize", _by_debugfs(rfc2, "1"))] if notifier else []
            found.append(("preserve", lambda: _preserve(luo)))
            if tokens := sorted(luo.files.outgoing):
                found.append(("unpreserve", lambda: luo.fd_unpreserve(rng.choice(tokens))))
        case LuoState.UPDATED:
            found.append(("finish", luo.finish))
        case _:
            found.append(("cancel", luo.cancel))
            found += [("abort", _by_debugfs(rfc2, "0"))] if notifier else []
            # An update goes on from there, too.
            found += [("freeze", luo.freeze)] * 3 if luo.state is LuoState.PREPARED else []
    return found


def _preserve(luo: Luo) -> None:
    fd = os.memfd_create("somebody's")
    try:
        os.ftruncate(fd, 4096)
        luo.fd_preserve(fd)
    finally:
        os.close(fd)


# --- luoctl -----------------------------------------------------------------------------------


def luoctl(world: World, rng: random.Random) -> None:
    """Somebody calls a verb of LUO's own, wherever the agent is; it refuses beside an attempt."""
    nodes = [node for node in world.nodes.values() if node.phase is not None and luo_of(node) is not None]
    if nodes:
        node = rng.choice(nodes)
        digest = digest_of(rng.choice((*OLD, *NEW, node.release, node.release, node.release)))
        world.start(_errand(node, rng.choice(ERRANDS), digest, random.Random(rng.random())))


async def _errand(node: SimNode, verbs: Sequence[str], digest: str, rng: random.Random) -> None:
    for verb in verbs:
        if not node.world.chaos or node.phase is None or rng.random() < LEAVES:
            return
        await _luoctl(node, verb, digest)
        await asyncio.sleep(rng.uniform(0.1, 5))


async def _luoctl(node: SimNode, verb: str, digest: str) -> None:
    assert node.life is not None
    luo, story = LuoByHand(node.life), node.world.story
    before = node.phase
    node.tell(f"luoctl {verb} while the agent is {before}")
    # Before it is known what became of it: who asked may go away first.
    node.by_hand = node.by_hand or verb in LEAVE_SOMETHING
    if verb == "kexec":
        story.count("luoctl kexec asked for")
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await _call(luo, verb, digest)
                node.by_hand = node.by_hand or verb in LEAVE_SOMETHING
                story.count(f"luoctl {verb}")
    except AgentError as refusal:
        node.tell(f"luoctl {verb} is refused: {refusal.message}")
        story.count(f"luoctl {verb} refused: {refusal.reason}")


async def _call(luo: LuoByHand, verb: str, digest: str) -> None:
    if verb in ("prepare", "cancel") and not await luo.is_here():
        return  # on a kernel with sessions these two are an attempt's (app_control)
    match verb:
        case "prepare":
            await luo.prepare()
        case "cancel":
            await luo.cancel()
        case "preserve":
            fd = os.memfd_create("somebody's")
            try:
                os.ftruncate(fd, 4096)
                await luo.preserve({}, fd)
            finally:
                os.close(fd)
        case "kexec":
            await luo.kexec(digest, "", skip_preflight=True)
        case _:
            await luo.handlers()[verb]({})
