"""An agent beside a kernel process of another version of the program: told apart, never misread."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node_agent.core.model import Problem
from node_agent.errors import KernelError, Retry
from node_agent.kernel.emulated import syncclient, wire
from node_agent.kernel.emulated.client import ProcessKernel
from node_agent.kernel.emulated.control import KernelControl
from node_agent.kernel.emulated.image import EmulatedImage
from node_agent.kernel.emulated.model import LuoModel
from node_agent.ports import JournalRecord
from node_agent.resume import blackout
from node_agent.runtime.journal_format import MAGIC, encode_record

NOW = KernelControl(LuoModel(EmulatedImage("7.2.13"), new_boot_id=lambda: "b2"), dict).answer("facts", ())
OLD = "boot_id=b2\nrelease=7.2.13\ncommand_line=\nhardware_model=emulated\nluo=1\npoisoned=0\n"
"""What one said before it knew of another model of LUO."""
OTHERS = (OLD, NOW.replace(f"wire={syncclient.WIRE}\n", "wire=0\n"))

Tell = Callable[[str], None]


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Tell]:
    """A kernel below tmp_path that answers every word with the same."""
    answers = [NOW]
    (tmp_path / "dev").mkdir()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(tmp_path / "dev" / "kexec"))
    listener.listen()

    def serve() -> None:
        while True:
            sock, _ = listener.accept()
            with sock:
                if sock.recv(wire.MESSAGE_BYTES) == b"end":
                    return
                sock.send(wire.RESULT.pack(0) + answers[0].encode())

    thread = threading.Thread(target=serve)
    thread.start()

    def tell(answer: str) -> None:
        answers[0] = answer

    yield tell
    syncclient.ask_control(str(tmp_path), "end").close()
    thread.join()
    listener.close()


def test_this_programs_kernel_says_this_programs_number(told: Tell, tmp_path: Path) -> None:
    assert syncclient.facts(str(tmp_path))["boot_id"] == "b2"


@pytest.mark.parametrize("answer", OTHERS, ids=["before there was one", "another number"])
async def test_the_agent_says_what_to_do(told: Tell, tmp_path: Path, answer: str) -> None:
    told(answer)
    for asked in (ProcessKernel(str(tmp_path)).facts, ProcessKernel(str(tmp_path)).clock):
        with pytest.raises(KernelError) as caught:
            await asked()
        problem = Problem.of(caught.value)
        assert (problem.reason, problem.retry) == ("KERNEL_PROCESS_DIFFERS", Retry.FIX_STATE)
        assert "start it anew" in problem.remedy


@pytest.mark.parametrize("answer", OTHERS, ids=["before there was one", "another number"])
def test_the_blackout_path_takes_nothing(told: Tell, tmp_path: Path, answer: str) -> None:
    body = {
        "attempt": "7-a",
        "agent_session": "lr.7-a.agent",
        "boot_id": "b1",
        "sessions": {},
        "bindings": {},
    }
    (tmp_path / "journal").write_bytes(MAGIC + encode_record(JournalRecord(1, "jump_intent", body)))

    def begun() -> tuple[str, dict[str, str]]:
        handover = blackout.begin(root=str(tmp_path), journal_path=str(tmp_path / "journal"))
        os.close(handover.journal_fd)
        return handover.attempt, handover.errors

    assert begun() == ("7-a", {})
    told(answer)
    assert begun() == ("", {"boot_id": errno.errorcode[errno.EPROTO]})
