"""luoctl in LUO's own words on a kernel of RFC v2's time, in both couplings: what it does and refuses."""

from __future__ import annotations

import asyncio
import os

import pytest

from node_agent.core.phases import Phase
from tests.unit.agent_app.luo_node import COUPLINGS, LuoNode, descriptors, luo_node

pytestmark = pytest.mark.parametrize("kind", COUPLINGS)

CONTENT = b"what an operator wants to keep"


async def test_reserve_mem_needs_no_more_than_prepare(kind: str) -> None:
    """The thread: "luoctl prepare would work for whoever plans to use just reserve_mem"."""
    async with luo_node(kind) as node:
        assert (await node.ask("state"))["state"] == "normal"
        assert await node.ask("prepare") == {"event": "prepare", "state": "prepared"}
        told = await node.ask("state")
        assert (told["state"], told["coupling"], told["kho_finalized"]) == ("prepared", kind, True)
        await node.kexec()
        assert (await node.ask("state"))["state"] == "updated"
        assert await node.ask("list") == []
        assert await node.ask(
            "finish",
        ) == {"event": "finish", "state": "normal"}


async def test_a_memfd_there_and_back(kind: str) -> None:
    async with luo_node(kind) as node:
        token = await node.preserve_bytes(CONTENT)
        assert await node.ask("list") == [
            {"token": token, "kind": "memfd", "state": "registered", "session": ""}
        ]
        await node.ask("prepare")
        assert await node.ask("list") == [
            {"token": token, "kind": "memfd", "state": "prepared", "session": ""}
        ]
        await node.ask("freeze")
        assert await node.ask("list") == [{"token": token, "kind": "memfd", "state": "frozen", "session": ""}]
        await node.kexec()
        assert await node.ask("list") == [
            {"token": token, "kind": "memfd", "state": "arrived", "session": ""}
        ]
        assert await node.restore(token) == CONTENT
        assert await node.ask("list") == [
            {"token": token, "kind": "memfd", "state": "restored", "session": ""}
        ]
        assert await node.restore(token) == CONTENT, "until it is finished it can be had again"
        await node.ask("finish")
        assert await node.ask("list") == []
        assert node.lab.held() == []
        assert await node.refused(node.restore(token)) == "LUO_NOT_UPDATED"


async def test_cancel_keeps_tokens_and_unpreserve_gives_them_up(kind: str) -> None:
    async with luo_node(kind) as node:
        token = await node.preserve_bytes(CONTENT)
        await node.ask("prepare")
        assert await node.refused(node.ask("unpreserve", token=token)) == "LUO_NOT_NORMAL"
        assert await node.ask("cancel") == {"event": "cancel", "state": "normal"}
        assert [file["token"] for file in await node.ask("list")] == [token]
        await node.ask("prepare")
        await node.ask("freeze")
        await node.ask("cancel")
        assert await node.ask("unpreserve", token=token) == {"token": token}
        assert await node.ask("list") == []
        assert await node.refused(node.ask("unpreserve", token=token)) == "TOKEN_NOT_FOUND"


async def test_what_is_bad_is_refused_by_its_name_and_leaves_nothing(kind: str) -> None:
    """Wrong state, unknown token, double preserve, unsupported kind of file."""
    async with luo_node(kind) as node:
        reading, writing = os.pipe()
        with open(__file__, "rb") as regular:
            before = descriptors()
            for fd in (reading, writing, regular.fileno()):
                assert await node.refused(node.preserve(fd)) == "FILE_UNPRESERVABLE"
            assert descriptors() == before
        os.close(reading)
        os.close(writing)
        memory = os.memfd_create("twice")
        os.write(memory, CONTENT)
        token = await node.preserve(memory)
        before = descriptors()
        assert await node.refused(node.preserve(memory)) == "FILE_ALREADY_PRESERVED"
        again = os.open(f"/proc/self/fd/{memory}", os.O_RDWR)  # as the shell's 3<>/proc/PID/fd/N
        assert await node.refused(node.preserve(again)) == "FILE_ALREADY_PRESERVED"
        os.close(again)
        assert await node.refused(node.ask("restore", token=token)) == "LUO_NOT_UPDATED"
        assert await node.refused(node.ask("freeze")) == "LUO_STATE"
        assert await node.refused(node.ask("cancel")) == "LUO_STATE"
        assert await node.refused(node.ask("finish")) == "LUO_STATE"
        assert await node.refused(node.ask("unpreserve", token=7)) == "TOKEN_NOT_FOUND"
        assert descriptors() == before
        await node.ask("prepare")
        before = descriptors()
        assert await node.refused(node.ask("prepare")) == "LUO_NOT_NORMAL"
        assert await node.refused(node.preserve(memory)) == "LUO_NOT_NORMAL"
        assert await node.refused(node.ask("finish")) == "LUO_STATE"
        assert descriptors() == before
        os.close(memory)
        await node.kexec()
        assert await node.refused(node.ask("restore", token=7)) == "TOKEN_NOT_FOUND"
        assert await node.refused(node.ask("prepare")) == "LUO_NOT_NORMAL"
        assert await node.refused(node.preserve_bytes(CONTENT)) == "LUO_NOT_NORMAL"
        assert await node.refused(node.ask("freeze")) == "LUO_STATE"
        await node.ask("finish")


@pytest.mark.parametrize("token", [None, "0", -1, 1.0, True, 2**64])
async def test_what_is_no_token(kind: str, token: object) -> None:
    async with luo_node(kind) as node:
        for verb in ("unpreserve", "restore"):
            assert await node.refused(node.ask(verb, token=token)) == "BAD_REQUEST"


async def test_a_second_agent_of_the_same_boot_cannot_restore_again(kind: str) -> None:
    """The kernel gives a file once; the copy is the agent's that restored it."""
    async with luo_node(kind) as node:
        token = await node.preserve_bytes(CONTENT)
        await node.ask("prepare")
        await node.kexec()
        assert await node.restore(token) == CONTENT
        before = node.lab.runner
        node.lab.crash()
        await node.lab.base.until(lambda: node.lab.runner is not before and node.lab.runner.ready.is_set())
        assert await node.refused(node.restore(token)) == "ALREADY_RESTORED"
        await node.ask("finish")


async def test_two_who_restore_the_same_file_at_once_both_have_it(kind: str) -> None:
    async with luo_node(kind) as node:
        token = await node.preserve_bytes(CONTENT)
        await node.ask("prepare")
        await node.kexec()
        found = await asyncio.gather(*(node.restore(token) for _ in range(3)))
        assert found == [CONTENT] * 3
        await node.ask("finish")


async def test_an_operators_hand_is_seen(kind: str) -> None:
    async with luo_node(kind) as node:
        token = await node.preserve_bytes(CONTENT)
        await node.refused(node.ask("freeze"))
        await node.ask("state")
        await node.ask("list")
        await node.ask("prepare")
        seen = ["ByHandPreserve", "ByHandFreeze", "ByHandFreezeFailed", "ByHandPrepare"]
        assert node.story()[-4:] == seen
        lines: object = await node.ask("story", lines=4)
        assert isinstance(lines, list)
        assert all(line.endswith("→ IDLE (LUO_BY_HAND)") for line in lines)
        problems = [report.problem for report in node.lab.runner.reports() if report.problem is not None]
        assert [p.message for p in problems][-2:] == [
            "luoctl freeze: it failed with EINVAL",
            "luoctl prepare: somebody drives LUO by hand",
        ]
        await node.kexec()
        assert node.story()[-2:] == ["ByHandKexec", "BootClassified"], "it is in the journal"
        await node.restore(token)
        await node.ask("finish")


async def test_an_attempt_that_is_under_way_is_not_disturbed(kind: str) -> None:
    async with luo_node(kind) as node:
        lab = node.lab
        lab.runner.submit(lab.prepare())
        await lab.reach(Phase.PRESERVED)
        held, before = lab.held(), descriptors()
        memory = os.memfd_create("late")
        for work in (
            node.ask("prepare"),
            node.ask("freeze"),
            node.ask("finish"),
            node.preserve(memory),
            node.ask("unpreserve", token=0),
            node.ask("restore", token=0),
            node.ask("kexec", artifact="n"),
        ):
            reason = await node.refused(work)
            assert reason in ("ATTEMPT_UNDER_WAY", "LUO_NOT_NORMAL"), reason
        os.close(memory)
        assert (lab.held(), node.state) == (held, "prepared")
        assert descriptors() == before
        assert (await node.ask("state"))["attempt"] == "PRESERVED"
        files = await node.ask("list")
        assert {row["state"] for row in files} == {"prepared"}
        assert lab.runner.attempt is not None
        assert {row["session"] for row in files} == set(lab.runner.attempt.tokens)
        assert "ByHand" not in " ".join(node.story())


async def test_cancel_is_of_the_attempt_while_there_is_one(kind: str) -> None:
    async with luo_node(kind) as node:
        lab = node.lab
        lab.runner.submit(lab.prepare())
        await lab.reach(Phase.PRESERVED)
        assert (await node.ask("cancel", no_wait=True))["outcome"] == "ACCEPTED"  # type: ignore[index]
        assert await lab.settle() is Phase.ABORTED
        assert node.state == "normal"
        await node.ask("prepare")
        assert await node.ask("cancel") == {"event": "cancel", "state": "normal"}


async def begin(node: LuoNode) -> str:
    """An attempt after what was done by hand: why it was refused."""
    lab = node.lab
    lab.runner.submit(lab.prepare())
    assert await lab.settle() is Phase.ABORTED
    return lab.problem()


async def test_no_attempt_begins_over_what_is_prepared_by_hand(kind: str) -> None:
    async with luo_node(kind) as node:
        await node.preserve_bytes(CONTENT)
        await node.ask("prepare")
        files = await node.ask("list")
        assert await begin(node) == "LUO_NOT_NORMAL"
        assert (node.state, await node.ask("list")) == ("prepared", files), "it is as it was"


async def test_no_attempt_begins_over_what_is_preserved_by_hand(kind: str) -> None:
    async with luo_node(kind) as node:
        await node.preserve_bytes(CONTENT)
        files = await node.ask("list")
        assert await begin(node) == "PRESERVED_BY_HAND"
        assert (node.state, await node.ask("list")) == ("normal", files), "it is as it was"


async def test_no_attempt_begins_over_what_came_in_by_hand(kind: str) -> None:
    async with luo_node(kind) as node:
        token = await node.preserve_bytes(CONTENT)
        await node.ask("prepare")
        await node.kexec()
        lab = node.lab
        lab.runner.submit(lab.prepare(back=True, kind=lab.prepare().kind))
        assert await lab.settle() is Phase.ABORTED
        assert lab.problem() == "LUO_NOT_NORMAL"
        assert await node.restore(token) == CONTENT
        await node.ask("finish")


async def test_a_node_that_is_not_well_goes_on_saying_why(kind: str) -> None:
    async with luo_node(kind) as node:
        lab = node.lab
        lab.hooks.health = lambda: (False, "its probe fails")
        assert await lab.update() is Phase.AWAITING_ROLLBACK
        problem = lab.runner.status().problem
        assert problem is not None
        await node.ask("prepare")
        assert node.story()[-1] == "ByHandPrepare"
        assert list(lab.runner.reports())[-1].problem == problem
