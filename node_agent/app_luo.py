"""luoctl's verbs that are LUO's own words: what they do on a kernel of RFC v2's time, and what to use instead
on one with sessions.

Rules
1. Reading (state, list, telemetry) always works.
2. What changes LUO is done in the runner's turn (runtime.by_hand): never beside an attempt, and kept in the
   story.
3. The kernel restores a file once. A copy is kept here until LUO is finished, so that one that was handed
   over and lost (luoctl found no room for it, say) can be had again.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from node_agent.app_luo_remedies import check_jump, check_word, remedied
from node_agent.core.attempt import KexecByHand
from node_agent.core.model import KexecTelemetry
from node_agent.core.phases import SETTLED, Phase
from node_agent.core.recovery import COMMAND_LINE_KEY
from node_agent.core.timing import FROM_TELEMETRY
from node_agent.errors import AgentError, CommandRefused, KernelError, Retry
from node_agent.kernel import failure as calls
from node_agent.kernel.luo_models import RFC2
from node_agent.kernel.tokens import UPDATED
from node_agent.ports import KexecImage, StagedArtifact, TokenDevice
from node_agent.runtime.control import ControlError, FdHandler, Handler, WithFd
from node_agent.runtime.preflight import preflight_staged
from node_agent.runtime.runner_effects import Ports
from node_agent.runtime.runner_step import got_ready, within
from node_agent.runtime.supervisor import NodeLife

T = TypeVar("T")
log = logging.getLogger(__name__)

TOKEN_MAX = 2**64 - 1

INSTEAD: Mapping[str, str] = {
    "state": "Use `luoctl status`: with sessions there is no state of the whole machine.",
    "prepare": "Use `luoctl prepare DIGEST`: an attempt preserves in sessions of its own.",
    "freeze": "Nothing is to be done: reboot freezes by itself, see `luoctl kexec`.",
    "finish": "Nothing is to be done: the agent finishes each session by itself once the node is healthy.",
    "preserve": "Let the program that has the file speak the broker's protocol: it says SUBSCRIBE, and "
    "preserves in the session that it is sent (`luoctl subscribers`).",
    "unpreserve": "Use `luoctl cancel`: it closes the attempt's sessions, and gives up what they preserve.",
    "restore": "Let the program speak the broker's protocol: it says CLAIM, and retrieves from its session.",
    "list": "Use `luoctl sessions`: what is preserved is known by its session.",
    "kexec": "Use `luoctl prepare DIGEST`, then `luoctl kexec`.",
    "telemetry": "Use `luoctl story` or `liveroll story NODE`: the agent's own marks measure a kexec where "
    "the kernels do not tell.",
}
"""On a kernel with sessions, which has no such verb."""


class LuoByHand:
    """One handler for each of LUO's own verbs; those that it shares with attempts, app_control calls."""

    def __init__(self, life: NodeLife) -> None:
        self._life = life
        self._kept: dict[int, int] = {}
        """Token → descriptor, of what was restored."""
        self._given: dict[tuple[int, int], int] = {}
        """(device, inode) → token, of regular files that were preserved through us."""

    def handlers(self) -> Mapping[str, Handler]:
        """Command → handler."""
        return {
            "state": self.state,
            "freeze": self.freeze,
            "finish": self.finish,
            "unpreserve": self.unpreserve,
            "restore": self.restore,
            "list": self.list,
            "telemetry": self.telemetry,
        }

    def takers(self) -> Mapping[str, FdHandler]:
        """Command that comes with a descriptor → handler."""
        return {"preserve": self.preserve}

    # --- reading

    async def state(self, _request: Mapping[str, object]) -> object:
        """LUO's state, and what a kexec would do with it."""
        facts = await self._ports.kernel.facts()
        if facts.luo_model != RFC2:
            raise unknown_here("state")
        return {
            "state": facts.luo_state or "off",
            "release": facts.release,
            "coupling": facts.coupling,
            "kho_finalized": facts.kho_finalized,
            "kexec_count": facts.kexec_count,
            "emulated": facts.emulated,
            "attempt": "" if self._phase in SETTLED else self._phase.value,
        }

    async def list(self, _request: Mapping[str, object]) -> object:
        """All files that the kernel has a token for, and of which session of the attempt they are."""
        device = await self._device("list")
        whose = self._sessions()
        return [{**asdict(file), "session": whose.get(file.token, "")} for file in await device.files()]

    def _sessions(self) -> Mapping[int, str]:
        """Token → session, of an attempt that still holds any."""
        attempt = self._life.runner.attempt
        if attempt is None or attempt.phase in SETTLED - {Phase.QUARANTINED}:
            return {}
        return {token: name for name, mine in attempt.tokens.items() for token in mine.values()}

    async def telemetry(self, _request: Mapping[str, object]) -> object:
        """What the kernels told of the kexec that started this boot."""
        told = await self._ports.kernel.telemetry()
        facts = await self._ports.kernel.facts()
        if told is not None:
            return {**_phases(told), "emulated": facts.emulated}
        if facts.luo_model != RFC2:
            raise unknown_here("telemetry")
        raise CommandRefused(
            "the kernel tells of no kexec that started this boot",
            reason="NO_TELEMETRY",
            remedy="It takes a kexec between two kernels that have kexec telemetry. `luoctl story` has the "
            "agent's own marks.",
        )

    # --- LUO's events

    async def is_here(self) -> bool:
        """Has this kernel LUO's own verbs?"""
        return (await self._ports.kernel.facts()).luo_model == RFC2

    async def prepare(self) -> object:
        """LUO's PREPARE, and nothing of an attempt: reserve_mem and whatever was preserved by hand."""
        return await self._event("prepare", lambda device: device.prepare)

    async def freeze(self, _request: Mapping[str, object]) -> object:
        """LUO's FREEZE."""
        return await self._event("freeze", lambda device: device.freeze)

    async def cancel(self) -> object:
        """LUO's CANCEL."""
        return await self._event("cancel", lambda device: device.cancel)

    async def finish(self, _request: Mapping[str, object]) -> object:
        """LUO's FINISH."""
        result = await self._event("finish", lambda device: device.finish)
        self.close()
        return result

    async def _event(
        self, verb: str, event: Callable[[TokenDevice], Callable[[], Coroutine[Any, Any, None]]]
    ) -> object:
        device = await self._device(verb)
        await self._by_hand(verb, event(device))
        return {"event": verb, "state": await device.state()}

    # --- files

    async def preserve(self, _request: Mapping[str, object], fd: int) -> object:
        """FD_PRESERVE of what came along."""
        device, file = await self._device("preserve"), _identity(fd)
        token = await self._by_hand("preserve", lambda: device.preserve(fd), file=file)
        if file is not None:
            self._given[file] = token
        return {"token": token}

    async def unpreserve(self, request: Mapping[str, object]) -> object:
        """FD_UNPRESERVE."""
        device, token = await self._device("unpreserve"), _token(request)
        await self._by_hand("unpreserve", lambda: device.unpreserve(token))
        return {"token": token}

    async def restore(self, request: Mapping[str, object]) -> object:
        """FD_RESTORE; the file goes with the answer."""
        device, token = await self._device("restore"), _token(request)
        kind = next((file.kind for file in await device.files() if file.token == token), "")
        if await device.state() != UPDATED:
            self.close()  # it was finished past luoctl
        if token not in self._kept:
            await self._by_hand("restore", lambda: self._restore(device, token))
        if token not in self._kept:  # somebody's finish came right behind, and gave it back
            raise calls.failure(OSError(errno.EBUSY, calls.FD_RESTORE))
        return WithFd({"token": token, "kind": kind}, os.dup(self._kept[token]))

    async def _restore(self, device: TokenDevice, token: int) -> None:
        if token not in self._kept:  # somebody else's turn may have come first
            self._kept[token] = await device.restore(token)

    def close(self) -> None:
        """Give up the copies of what was restored."""
        while self._kept:
            os.close(self._kept.popitem()[1])

    # --- the jump

    async def kexec(self, digest: str, command_line: str, *, skip_preflight: bool) -> object:
        """Load an artifact and jump, with whatever LUO has been prepared for. A success never answers.

        Args:
            digest: of a staged artifact, in full.
            command_line: of the target; empty: the running kernel's.
            skip_preflight: go whatever the target is, and whoever loses memory.
        """
        await self._device("kexec")
        artifact = await self._ports.artifacts.get(digest)
        if not skip_preflight:
            ports = self._ports
            await preflight_staged(artifact, ports.kernel, ports.artifacts, ports.workloads)
        facts = self._life.boot.facts
        meant = KexecByHand(facts.boot_id, facts.kexec_count, artifact.release)
        await self._by_hand("kexec", lambda: self._jump(artifact, command_line, skip_preflight), kexec=meant)
        raise AssertionError("a kexec came back with success")

    async def check_word(self) -> None:
        """Whether `luoctl kexec` without DIGEST may be an attempt's. Raises CommandRefused."""
        if self._phase in SETTLED:
            check_word(await self._ports.kernel.facts())

    async def _jump(self, artifact: StagedArtifact, command_line: str, skip_preflight: bool) -> None:
        if self._phase is Phase.BAKING:
            raise CommandRefused(
                "the last attempt is neither committed nor rolled back, and this kexec would undo it",
                reason="UNCOMMITTED",
                retry=Retry.FIX_STATE,
                remedy="Say `luoctl commit` first, or roll the node back.",
            )
        ports = self._ports
        words = (command_line or self._life.boot.facts.command_line).split()
        # The word of an attempt of before would make the next boot its own.
        line = " ".join(word for word in words if not word.startswith(COMMAND_LINE_KEY))
        image = KexecImage(artifact.kernel_path, artifact.initrd_path, line, artifact.release)
        try:
            await within(ports.clock, _JUMP_S, self._made_ready(image, skip_preflight))
            await ports.disks.jump(ports.kernel, lambda: None, _JUMP_S)
        except TimeoutError:
            await self._stay()
            raise CommandRefused(
                f"the node was not ready to jump within {_JUMP_S:g} s",
                reason="BY_HAND_TIMEOUT",
                retry=Retry.FIX_STATE,
                remedy="Look for the disk that hangs (a process in state D); without one the kernel may "
                "hang: see its log, and reboot in full (cold).",
            ) from None
        except Exception:  # whatever was begun must be undone
            await self._stay()
            raise

    async def _made_ready(self, image: KexecImage, skip_preflight: bool) -> None:
        ports = self._ports
        subscribers = await ports.workloads.subscribers()
        check_jump(await ports.kernel.facts(), subscribers, skip_preflight=skip_preflight)
        await ports.kernel.load(image)
        await got_ready(ports)

    async def _stay(self) -> None:
        """No jump comes. What cannot be undone is logged: the answer is why there was none."""
        ports = self._ports
        for undo in (ports.disks.let_go, ports.kernel.unload):
            try:
                await within(ports.clock, _JUMP_S, undo())
            except Exception:  # nor may it keep the other from being undone
                log.warning("after a kexec by hand that did not come", exc_info=True)

    # --- shared

    @property
    def _ports(self) -> Ports:
        return self._life.ports

    @property
    def _phase(self) -> Phase:
        return self._life.runner.status().phase

    async def _device(self, verb: str) -> TokenDevice:
        """Raises CommandRefused (VERB_UNKNOWN_HERE), KernelError (LUO_OFF)."""
        kernel = self._ports.kernel
        facts = await kernel.facts()
        if facts.luo_model != RFC2:
            raise unknown_here(verb)
        device = kernel.luo()
        if device is None or not facts.luo:
            raise calls.failure(OSError(errno.ENOENT, calls.OPEN))
        return device

    async def _by_hand(
        self,
        verb: str,
        do: Callable[[], Coroutine[Any, Any, T]],
        *,
        kexec: KexecByHand | None = None,
        file: tuple[int, int] | None = None,
    ) -> T:
        try:
            return await self._life.runner.by_hand(verb, do, kexec)
        except KernelError as error:
            token = self._given.get(file) if file is not None else None
            raise await self._remedied(error, token) from error

    async def _remedied(self, error: KernelError, token: int | None) -> KernelError:
        """The same, with what mends it for a person; as it is where the kernel cannot be asked."""
        kernel = self._ports.kernel
        try:
            facts, device = await kernel.facts(), kernel.luo()
            if token is not None and (device is None or token not in await device.registered()):
                token = None  # it was given up past luoctl, and its number means nothing
        except KernelError:
            return error
        kinds = await self._kinds() if error.reason == "FILE_UNPRESERVABLE" else ()
        return remedied(error, facts, kinds=kinds, token=token)

    async def _kinds(self) -> Sequence[str]:
        """Kinds of files that the running kernel takes, as its artifact says; empty: not known."""
        artifacts = self._ports.artifacts
        try:
            digest = await artifacts.rollback_artifact()
            abi = (await artifacts.get(digest)).live_update if digest else None
        except AgentError:
            return ()
        return tuple(abi.handlers) if abi is not None else ()


_JUMP_S = 60.0
"""How long it may take to see that nothing is lost, load the target, write back and hear from LUO that it is
ready; then filesystems to come to rest, with nobody's blackout to keep short; then, if there is no jump, each
step back."""


def unknown_here(verb: str) -> CommandRefused:
    """A kernel with sessions has no such verb."""
    return CommandRefused(
        f"{verb} is a verb of RFC v2's LUO, and this kernel has sessions",
        reason="VERB_UNKNOWN_HERE",
        remedy=INSTEAD[verb],
        verb=verb,
    )


def _identity(fd: int) -> tuple[int, int] | None:
    """Of a file with content; kernel objects share one inode."""
    found = os.fstat(fd)
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def _token(request: Mapping[str, object]) -> int:
    token = request.get("token")
    if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token <= TOKEN_MAX:
        raise ControlError(f"{token!r} is no token", remedy="give a number that `luoctl list` shows")
    return token


def _phases(told: KexecTelemetry) -> dict[str, object]:
    stamps = asdict(told)
    hz = stamps.pop("tsc_hz")
    edges = (
        ("shutdown", told.shutdown_tsc, told.purgatory_tsc),
        ("purgatory", told.purgatory_tsc, told.kernel_tsc),
        ("boot", told.kernel_tsc, told.userspace_tsc),
    )
    return {
        "source": FROM_TELEMETRY,
        "tsc_hz": hz,
        "tsc": stamps,
        "phases_ms": {name: _ms(start, end, hz) for name, start, end in edges},
        "total_ms": _ms(told.shutdown_tsc, told.userspace_tsc, hz),
    }


def _ms(start: int, end: int, hz: float) -> float:
    return round((end - start) / hz * 1000, 3) if hz > 0 else 0.0
