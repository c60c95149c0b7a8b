"""A person's hands on one node: luoctl, and the node's own journal, read by a stranger."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path
from typing import Any

from deploy.lab import artifacts
from deploy.lab.disk import GuestFile
from deploy.lab.handle import Boot, Node, parse_json
from deploy.lab.paths import Lab
from tests.integration import journal_reader
from tests.lab.waiting import WAIT_S, until

JOURNAL = "/var/lib/liveroll-agent/journal"
SETTLED = ("IDLE", "BAKING", "COMMITTED", "ABORTED", "AWAITING_ROLLBACK", "QUARANTINED", "COLD_BOOTED")


def shelf(lab: Lab, directory: Path, *names: str) -> dict[str, GuestFile]:
    """These kernels' artifacts as files of a guest, each below /srv/NAME."""
    made = artifacts.build_all(lab, directory)
    return {
        f"/srv/{name}/{file}": GuestFile(data)
        for name in names
        for file, data in artifacts.content(made[name]).items()
    }


class Refused(AssertionError):
    """luoctl said no. answer: its JSON."""

    def __init__(self, words: tuple[str, ...], rc: int, answer: Any) -> None:
        super().__init__(f"luoctl {' '.join(words)}: {rc}: {answer}")
        self.rc, self.answer = rc, answer

    @property
    def reason(self) -> str:
        return str(self.answer["error"]["reason"])


class Hands:
    """On a node whose agent runs."""

    def __init__(self, node: Node) -> None:
        self.node = node

    # -- luoctl

    async def luoctl(self, *words: str, timeout_s: float = 120.0) -> Any:
        """Its answer, also of an attempt that came to nothing. Raises Refused, or LabError where no agent
        answers."""
        ran = await self.node.luoctl("-o", "json", *words, timeout_s=timeout_s)
        answer = parse_json(ran.stdout)
        if ran.rc != 0 and not (isinstance(answer, dict) and "outcome" in answer):
            raise Refused(words, ran.rc, answer)
        return answer

    async def ready(self, *workloads: str) -> Any:
        """Until the agent answers and these take part; its status."""

        async def look() -> Any:
            return set(await self.luoctl("subscribers")) >= set(workloads)

        await until(look, f"{workloads} subscribed on {self.node.name}")
        return await self.luoctl("status")

    async def load(self, name: str) -> str:
        """Stage what lies in /srv/NAME; its digest."""
        return str((await self.luoctl("load", f"/srv/{name}"))["digest"])

    async def prepare(self, name: str, *options: str) -> Any:
        """Stage and prepare, to its end: PRESERVED, or what became of it."""
        return await self.luoctl("prepare", await self.load(name), *options)

    async def kexec(self) -> None:
        """Say it; the answer would go down with the kernel."""
        await self.node.exec("luoctl", "kexec", detach=True)

    async def jump(self, before: Boot) -> Boot:
        """Say it and see the next boot's userspace."""
        await self.kexec()
        return await self.node.wait_boot(after=before, timeout_s=WAIT_S)

    async def story(self) -> list[str]:
        return [str(text) for text in await self.luoctl("story")]

    # -- the journal

    async def journal(self) -> list[journal_reader.Record]:
        """Every record of it, checked as it is read; the agent may be writing."""
        told = await self.node.sh(f"busybox base64 {JOURNAL}")
        with tempfile.NamedTemporaryFile(prefix="journal-") as file:
            file.write(base64.b64decode(told))
            file.flush()
            return journal_reader.read(Path(file.name), torn_tail=True)

    async def phase(self) -> str:
        """As the journal has it: a dead agent, too, has one."""
        told = journal_reader.story(await self.journal())
        return told[-1][1] if told else ""

    async def until_phase(self, *wanted: str, timeout_s: float = WAIT_S) -> str:
        """Until the journal says one of these."""

        async def look() -> str:
            phase = await self.phase()
            return phase if phase in wanted else ""

        return await until(look, f"{self.node.name} {wanted}", timeout_s=timeout_s)

    async def until_settled(self) -> str:
        """Until its attempt ends, wherever it does."""
        return await self.until_phase(*SETTLED)

    async def events(self) -> list[tuple[str, str]]:
        """(event, phase) of the whole journal."""
        return journal_reader.story(await self.journal())

    async def until_event(self, event: str) -> None:
        """Until the journal's newest attempt has had it."""

        async def look() -> bool:
            records = await self.journal()
            newest = max((r.report["attempt"]["generation"] for r in records if r.attempt), default=0)
            return any(
                r.report["event"] == event and r.report["attempt"]["generation"] == newest
                for r in records
                if r.attempt
            )

        await until(look, f"{event} on {self.node.name}")

    async def jumps(self) -> int:
        """How many JumpIntents the journal has."""
        return len(journal_reader.jumps(await self.journal()))
