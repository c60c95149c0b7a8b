"""What mends a refusal when a person drives LUO by hand."""

from __future__ import annotations

import asyncio
import os

import pytest

from tests.unit.agent_app.luo_node import COUPLINGS, NEW_DIGEST, luo_node
from tests.unit.runner.lab import NOTIFIER


@pytest.mark.parametrize("kind", COUPLINGS)
async def test_a_kexec_without_a_digest_is_an_attempts(kind: str) -> None:
    """Where LUO is prepared by hand, `already done` would be a lie that ends with 0."""
    async with luo_node(kind) as node:
        await node.ask("prepare")
        refused = await node.refusal(node.ask("kexec"))
        assert (refused.reason, node.state) == ("NO_ATTEMPT", "prepared")
        assert "luoctl kexec DIGEST" in refused.remedy


@pytest.mark.parametrize("kind", COUPLINGS)
async def test_a_persons_word_loses_the_workloads_memory(kind: str) -> None:
    async with luo_node(kind) as node:
        await node.ask("prepare")
        refused = await node.refusal(node.ask("kexec", artifact=NEW_DIGEST))
        assert refused.reason == "WORKLOADS_WOULD_LOSE_MEMORY"
        assert "vm-0" in refused.message
        before = node.lab.runner
        jump = asyncio.create_task(node.ask("kexec", artifact=NEW_DIGEST, skip_preflight=True))
        await node.lab.base.until(lambda: node.lab.runner is not before and node.lab.runner.ready.is_set())
        jump.cancel()
        assert node.state == "updated"


@pytest.mark.parametrize("kind", COUPLINGS)
async def test_remedies_name_luos_state(kind: str) -> None:
    async with luo_node(kind) as node:
        node.end_workloads()
        not_prepared = await node.refusal(node.ask("kexec", artifact=NEW_DIGEST))
        assert not_prepared.reason == "NOT_PREPARED"
        assert "luoctl prepare" in not_prepared.remedy
        assert "nothing to cancel" in (await node.refusal(node.ask("cancel"))).remedy
        await node.ask("prepare")
        assert "nothing to finish" in (await node.refusal(node.ask("finish"))).remedy
        assert "after the kexec" in (await node.refusal(node.ask("restore", token=0))).remedy
        await node.ask("freeze")
        assert "frozen already" in (await node.refusal(node.ask("freeze"))).remedy


@pytest.mark.parametrize("kind", COUPLINGS)
async def test_a_file_that_cannot_be_preserved(kind: str) -> None:
    async with luo_node(kind) as node:
        reader, writer = os.pipe()
        memory = os.memfd_create("twice")
        try:
            unfit = await node.refusal(node.preserve(reader))
            assert unfit.reason == "FILE_UNPRESERVABLE"
            assert "memfd" in unfit.remedy
            token = await node.preserve(memory)
            twice = await node.refusal(node.preserve(memory))
            assert twice.reason == "FILE_ALREADY_PRESERVED"
            assert str(token) in twice.remedy
        finally:
            for fd in (reader, writer, memory):
                os.close(fd)


async def test_after_a_freeze_that_was_refused_only_a_cold_boot_helps() -> None:
    """With the notifier: "try again later" would never come true in this boot."""
    async with luo_node(NOTIFIER) as node:
        node.end_workloads()
        await node.ask("prepare")
        node.lab.node.model.faults = node.lab.node.model.faults.parse("refuse_freeze")
        assert "cold" in (await node.refusal(node.ask("freeze"))).remedy
        assert "cold" in (await node.refusal(node.ask("kexec", artifact=NEW_DIGEST))).remedy


@pytest.mark.parametrize("kind", COUPLINGS)
async def test_what_was_restored_is_not_given_out_once_luo_is_finished_past_luoctl(kind: str) -> None:
    """The agent's copy is for who comes again before FINISH, whoever sends that."""
    async with luo_node(kind) as node:
        token = await node.preserve_bytes(b"kept")
        await node.ask("prepare")
        await node.kexec()
        assert await node.restore(token) == b"kept"
        rfc2 = node.lab.node.model.rfc2
        assert rfc2 is not None
        rfc2.the_luo("test").finish()
        assert await node.refused(node.ask("restore", token=token)) == "LUO_NOT_UPDATED"
