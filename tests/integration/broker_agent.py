"""A whole agent's dealings with its workloads and nothing else: userspace of an emulated node.

`python -m tests.integration.broker_agent STATE HOPS ID…` unwinds once, then jumps HOPS times, each
time by the blackout path, and writes what it saw to STATE/result.jsonl, a line a boot.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from node_agent.resume.blackout import resume

if TYPE_CHECKING:
    from node_agent.resume.handover import Handover
    from node_agent.runtime.broker import Broker


def main() -> int:
    state, ids = sys.argv[1], sys.argv[3:]
    root = os.environ["LIVEROLL_NODE_ROOT"]
    if sys.argv[2] == "crash":
        import asyncio

        return asyncio.run(crash(root, state, ids))
    lost = sys.argv[2] == "lost"
    hops = 1 if lost else int(sys.argv[2])
    died = os.path.exists(f"{state}/died")
    if lost and not died:
        die_before_serving(state)
    handover = resume(
        root=root, journal_path=f"{state}/journal", socket_path=f"{state}/b.sock", deadline_s=20
    )
    import asyncio

    return asyncio.run(agent(root, state, hops, ids, handover))


def die_before_serving(state: str) -> None:
    import signal

    from node_agent.resume import blackout

    def serve(_handover: Handover, _deadline_s: float) -> None:
        with open(f"{state}/died", "w", encoding="utf-8"):
            os.kill(os.getpid(), signal.SIGKILL)

    blackout.serve = serve  # type: ignore[assignment]


async def crash(root: str, state: str, ids: list[str]) -> int:
    import asyncio
    import json
    import signal
    from pathlib import Path

    from node_agent.kernel.emulated.client import ProcessKernel
    from node_agent.runtime.broker import Broker

    kernel, broker, file = ProcessKernel(root), Broker(f"{state}/b.sock"), Path(state, "intent.json")
    again = file.exists()
    if again:
        intent = json.loads(file.read_text())
        broker.restore(intent["bindings"], kernel=kernel, sessions=intent["sessions"])
    serving = asyncio.create_task(broker.run())
    if not again:
        await everybody(broker, ids)
        sessions = await broker.preserve(kernel, "1-a")
        await broker.suspend()
        file.write_text(json.dumps({"bindings": dict(broker.bindings()), "sessions": dict(sessions)}))
        os.kill(os.getpid(), signal.SIGKILL)
    pauses = await broker.resume()
    await broker.release()
    Path(state, "result.jsonl").write_text(json.dumps([[p.workload, p.memory_intact] for p in pauses]) + "\n")
    serving.cancel()
    await asyncio.wait({serving})
    return 0


async def everybody(broker: Broker, ids: list[str]) -> None:
    import asyncio

    async with asyncio.timeout(30):
        while set(await broker.subscribers()) != set(ids):
            await asyncio.sleep(0.01)


async def agent(root: str, state: str, hops: int, ids: list[str], handover: Handover) -> int:
    import asyncio
    import json
    from pathlib import Path

    from node_agent.kernel.emulated.client import ProcessKernel
    from node_agent.kernel.emulated.process_sessions import ProcessSession
    from node_agent.ports import KexecImage
    from node_agent.runtime.broker import Broker
    from node_agent.runtime.broker_handover import HandoverKernel, marks
    from node_agent.runtime.journal import FileJournal

    def note(**words: object) -> None:
        with open(f"{state}/result.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(words) + "\n")

    journal = FileJournal.open(Path(state, "journal"), fd=handover.journal_fd)
    plain = ProcessKernel(root)
    kernel = HandoverKernel(plain, handover, ProcessSession)
    facts = await kernel.facts()
    broker = Broker(f"{state}/b.sock")
    broker.adopt(handover)
    serving = asyncio.create_task(broker.run())
    hop = facts.kexec_count
    if handover.attempt and not handover.sessions:
        note(errors=handover.errors)
        serving.cancel()
        await asyncio.wait({serving})
        return 0
    if handover.attempt:
        await broker.retrieve(kernel, handover.jump["sessions"])
        pauses = await broker.resume()
        agent_session = await kernel.retrieve_session(handover.agent_session)
        await broker.finish()
        await agent_session.finish()
        await agent_session.close()
        note(
            boot_id=facts.boot_id,
            errors=handover.errors,
            token=handover.token.decode(),
            untaken=kernel.untaken,
            marks={
                mark.name: [mark.boottime_s, mark.tsc]
                for mark in marks(handover, await plain.clock(), facts.boot_id)
            },
            pauses=[[p.workload, p.duration_s, p.clock, p.memory_intact, p.bytes_checked] for p in pauses],
        )
    await everybody(broker, ids)
    if hop == 0:
        await broker.preserve(kernel, "0-a")
        await broker.suspend()
        pauses = await broker.resume()
        await broker.release()
        note(unwound=[[p.workload, p.duration_s, p.clock, p.memory_intact] for p in pauses])
    if hop == hops:
        serving.cancel()
        await asyncio.wait({serving})
        return 0
    attempt = f"{hop + 1}-a"
    session = await kernel.create_session(f"lr.{attempt}.agent")
    token = os.memfd_create("token")
    os.write(token, json.dumps({"attempt": attempt}).encode())
    await session.preserve_fd(token, 0)
    sessions = await broker.preserve(kernel, attempt)
    Path(state, "kernel").write_bytes(b"kernel")
    await kernel.load(KexecImage(f"{state}/kernel", "", "kho=on liveupdate=on", "7.3.4"))
    await broker.suspend()
    await journal.append(
        "jump_intent",
        {
            "attempt": attempt,
            "agent_session": session.name,
            "sessions": dict(sessions),
            "bindings": dict(broker.bindings()),
            "boot_id": facts.boot_id,
        },
    )
    await kernel.reboot_kexec()
    return 1


if __name__ == "__main__":
    sys.exit(main())
