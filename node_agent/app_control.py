"""What luoctl's commands do: the handlers of the control socket, over one living node."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from node_agent.app_luo import LuoByHand
from node_agent.core import commands as cmd
from node_agent.core.model import ArtifactRef, AttemptKind, Problem
from node_agent.core.phases import SETTLED, Phase
from node_agent.core.report import Disposition, Outcome
from node_agent.errors import ArtifactError, CommandRefused
from node_agent.runtime.artifacts_manifest import MANIFEST, digest_of
from node_agent.runtime.control import ControlError, ControlServer, FdHandler, Handler
from node_agent.runtime.supervisor import NodeLife

_NOTHING_HELD = SETTLED - {Phase.QUARANTINED}
"""Finished, unwound or lost; a quarantined node may still hold what it could not finish."""


async def serve_control(path: Path, life: NodeLife) -> None:
    """Serve luoctl until cancelled. Raises SettingsError."""
    control = Control(life)
    try:
        async with ControlServer(path, control.handlers(), control.takers()).serve():
            await asyncio.get_running_loop().create_future()
    finally:
        control.close()


class Control:
    """One handler for each of luoctl's commands."""

    def __init__(self, life: NodeLife) -> None:
        self._life = life
        self._luo = LuoByHand(life)
        self._count = 0

    def handlers(self) -> Mapping[str, Handler]:
        """Command → handler."""
        return {
            "status": self.status,
            "sessions": self.sessions,
            "subscribers": self.subscribers,
            "peers": self.peers,
            "load": self.load,
            "prepare": self.prepare,
            "kexec": self.kexec,
            "cancel": self.cancel,
            "commit": self.commit,
            "story": self.story,
            **self._luo.handlers(),
        }

    def takers(self) -> Mapping[str, FdHandler]:
        """Command that comes with a descriptor → handler."""
        return self._luo.takers()

    def close(self) -> None:
        """Give up what is kept for whoever asks again."""
        self._luo.close()

    async def status(self, _request: Mapping[str, object]) -> object:
        """Where the node stands."""
        life, runner = self._life, self._life.runner
        facts, status = life.boot.facts, runner.status()
        verdict = runner.node.verdict
        return {
            "node_id": life.identity.node_id,
            "phase": status.phase.value,
            "attempt": status.attempt.id if status.attempt is not None else "",
            "healthy": status.healthy,
            "problem": _problem(status.problem),
            "release": facts.release,
            "emulated": facts.emulated,
            "boot_id": facts.boot_id,
            "verdict": verdict.value if verdict is not None else "",
            "by_hand": runner.node.by_hand,
            "link": self._link(),
            "orchestrator": life.link.view.address if life.link is not None else "",
            "staged": list(await life.ports.artifacts.staged()),
            "rollback_artifact": await life.ports.artifacts.rollback_artifact(),
        }

    def _link(self) -> str:
        link = self._life.link
        if link is None:
            return "none: no orchestrator is configured" if self._life.connect is None else "connecting"
        if link.view.up:
            return "up"
        problem = link.view.problem
        return "connecting" if problem is None else f"down: {problem.message} [{problem.reason}]"

    async def sessions(self, _request: Mapping[str, object]) -> object:
        """LUO sessions that the attempt holds, or may hold."""
        attempt = self._life.runner.attempt
        if attempt is None or attempt.phase in _NOTHING_HELD:
            return []
        return [{"workload": w, "session": s} for w, s in sorted(attempt.sessions.items())]

    async def subscribers(self, _request: Mapping[str, object]) -> object:
        """Workloads that take part."""
        return sorted(await self._life.ports.workloads.subscribers())

    async def peers(self, _request: Mapping[str, object]) -> object:
        """Workloads with their processes and sessions, for assess."""
        peers = await self._life.ports.workloads.peers()
        return [{"workload": p.workload, "pid": p.pid, "session": p.session} for p in peers]

    async def story(self, request: Mapping[str, object]) -> object:
        """The newest lines of what happened."""
        lines = request.get("lines", 50)
        count = lines if isinstance(lines, int) and lines > 0 else 50
        return [str(line) for line in self._life.runner.story()[-count:]]

    async def load(self, request: Mapping[str, object]) -> object:
        """Verify an artifact directory and keep it."""
        directory = Path(str(request.get("artifact_dir", "")))
        try:
            data = await asyncio.to_thread((directory / MANIFEST).read_bytes)
        except OSError as error:
            raise ArtifactError(
                f"{directory / MANIFEST}: {error.strerror}",
                reason="ARTIFACT_NOT_FOUND",
                remedy="name a directory that `liveroll artifact build` made",
            ) from error
        ref = ArtifactRef("", digest_of(data), directory.as_uri(), "")
        staged = await self._life.ports.artifacts.stage(ref)
        return {"digest": staged.digest, "release": staged.release}

    async def prepare(self, request: Mapping[str, object]) -> object:
        """Begin a local attempt; without an artifact LUO's own PREPARE."""
        line = _command_line(request)
        if not request.get("artifact"):
            return await self._luo.prepare()
        hold_s = request.get("health_hold_s", 0.0)
        command = cmd.LocalPrepare(
            command_id=self._id(),
            artifact_digest=await self._digest(str(request.get("artifact", ""))),
            command_line=line,
            kind=AttemptKind.ROLLBACK if request.get("rollback") is True else AttemptKind.FORWARD,
            health_hold_s=float(hold_s) if isinstance(hold_s, int | float) and hold_s >= 0 else 0.0,
            rollback_none=request.get("rollback_none") is True,
            operator_word=request.get("force") is True,
            skip_preflight=request.get("skip_preflight") is True,
        )
        return await self._do(command, request)

    async def kexec(self, request: Mapping[str, object]) -> object:
        """Jump; with an artifact by hand. A success never answers: this process is gone."""
        line, skip = _command_line(request), request.get("skip_preflight") is True
        if request.get("artifact"):
            digest = await self._digest(str(request["artifact"]))
            return await self._luo.kexec(digest, line, skip_preflight=skip)
        await self._luo.check_word()
        return await self._do(cmd.LocalKexec(self._id()), request)

    async def cancel(self, request: Mapping[str, object]) -> object:
        """Undo the attempt; where there is none, LUO's own CANCEL."""
        if self._life.runner.status().phase in SETTLED and await self._luo.is_here():
            return await self._luo.cancel()
        return await self._do(cmd.LocalCancel(self._id()), request)

    async def commit(self, request: Mapping[str, object]) -> object:
        """Make the running kernel what a cold boot starts."""
        return await self._do(cmd.LocalCommit(self._id()), request)

    def _id(self) -> str:
        self._count += 1
        return f"luoctl-{self._life.boot.facts.boot_id[:8]}-{self._count}"

    async def _digest(self, text: str) -> str:
        """The staged artifact that these first digits name."""
        staged = await self._life.ports.artifacts.staged()
        found = [d for d in staged if text and d.startswith(text)]
        if len(found) != 1:
            known = ", ".join(d[:12] for d in staged) or "nothing"
            raise ControlError(
                f"{text or 'nothing'} names {len(found)} staged artifacts",
                remedy=f"luoctl load ARTIFACT_DIR first, then give its digest; staged: {known}",
            )
        return found[0]

    async def _do(self, command: cmd.LocalCommand, request: Mapping[str, object]) -> object:
        disposition = self._life.runner.submit(command)
        if disposition.outcome is Outcome.REFUSED:
            problem = disposition.problem
            assert problem is not None
            raise CommandRefused(
                problem.message,
                reason=problem.reason,
                retry=problem.retry,
                remedy=problem.remedy,
                phase=disposition.status.phase.value,
            )
        if disposition.outcome is Outcome.ACCEPTED and request.get("no_wait") is not True:
            await self._life.until_news()
            await self._life.until_standing()
            while self._committing():
                await self._life.until_news()
        return self._outcome(disposition)

    def _committing(self) -> bool:
        attempt = self._life.runner.attempt
        return attempt is not None and attempt.phase is Phase.BAKING and attempt.committing

    def _outcome(self, disposition: Disposition) -> object:
        status, attempt = self._life.runner.status(), self._life.runner.attempt
        return {
            "skipped": list(attempt.skipped) if attempt is not None else [],
            "outcome": disposition.outcome.value,
            "phase": status.phase.value,
            "attempt": status.attempt.id if status.attempt is not None else "",
            "problem": _problem(status.problem),
        }


def _command_line(request: Mapping[str, object]) -> str:
    """What a kernel can be given: the journal and kexec_file_load take UTF-8 without NUL."""
    line = request.get("command_line", "")
    try:
        if isinstance(line, str) and b"\0" not in line.encode():
            return line
    except UnicodeEncodeError:
        pass
    raise ControlError("the command line is not UTF-8 text without NUL", remedy="give it in plain ASCII")


def _problem(problem: Problem | None) -> object:
    if problem is None:
        return None
    return {
        "reason": problem.reason,
        "retry": problem.retry.value,
        "message": problem.message,
        "remedy": problem.remedy,
        "fields": dict(problem.fields),
    }
