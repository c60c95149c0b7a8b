"""What an operator reads: luoctl by hand from its first word to its last, in both models."""

from __future__ import annotations

import pytest

from node_agent.app_luo import INSTEAD
from node_agent.errors import AgentError
from node_agent.luoctl import _complain
from node_agent.luoctl_view import RENDER
from tests.unit.agent_app.luo_node import NEW_DIGEST, LuoNode, luo_node
from tests.unit.cli.golden import check
from tests.unit.runner.lab import NOTIFIER


class Transcript:
    """Lines as a terminal shows them."""

    def __init__(self, node: LuoNode, capsys: pytest.CaptureFixture[str]) -> None:
        self._node, self._capsys = node, capsys
        self.lines: list[str] = []

    async def luoctl(self, verb: str, words: str = "", **arguments: object) -> None:
        self.lines.append(f"$ luoctl {verb} {words}".rstrip())
        try:
            result = await self._node.ask(verb, **arguments)
        except AgentError as error:
            told = {"message": error.message, "reason": error.reason, "remedy": error.remedy}
            code = _complain(told, "text")
            self.lines += [*self._capsys.readouterr().err.splitlines(), f"(exit code {code})"]
        else:
            self.lines += RENDER[verb](result)

    async def preserve(self) -> None:
        self.lines.append("$ luoctl preserve --memfd notes")
        self.lines += RENDER["preserve"]({"token": await self._node.preserve_bytes(b"notes")})

    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


async def test_on_a_kernel_of_rfc_v2(capsys: pytest.CaptureFixture[str]) -> None:
    async with luo_node(NOTIFIER) as node:
        said = Transcript(node, capsys)
        await said.luoctl("state")
        await said.luoctl("list")
        await said.luoctl("telemetry")
        await said.preserve()
        await said.luoctl("list")
        await said.luoctl("freeze")
        await said.luoctl("prepare")
        await said.luoctl("state")
        await said.luoctl("unpreserve", "0", token=0)
        await said.luoctl("freeze")
        await said.luoctl("list")
        await node.kexec()
        said.lines.append("$ luoctl kexec nnnn   # and back")
        await said.luoctl("state")
        await said.luoctl("list")
        await said.luoctl("cancel")
        await node.restore(0)
        said.lines.append("$ luoctl restore 0 --to notes")
        await said.luoctl("list")
        await said.luoctl("finish")
        await said.luoctl("list")
        await said.luoctl("telemetry")
        node.lab.runner.submit(node.lab.prepare(back=True, kind=node.lab.prepare().kind))
        await node.lab.base.until(lambda: node.lab.phase.value == "PRESERVED")
        said.lines.append("$ luoctl prepare nnnn")
        await said.luoctl("finish")
        await said.luoctl("state")
        await said.luoctl("list")
        check("luoctl-by-hand.txt", said.text())


async def test_on_a_kernel_with_sessions(capsys: pytest.CaptureFixture[str]) -> None:
    async with luo_node("sessions") as node:
        said = Transcript(node, capsys)
        for verb in INSTEAD:
            if verb == "preserve":
                continue
            arguments = {"artifact": NEW_DIGEST} if verb == "kexec" else {"token": 0}
            await said.luoctl(verb, **arguments)
        check("luoctl-instead.txt", said.text())
