"""Hooks: commands are bounded, killed as a group, and their last words are kept."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from node_agent.errors import HookFailed, Retry
from node_agent.workloads import hooks as hooks_module
from node_agent.workloads.hooks import OUTPUT_BYTES, CommandHooks, HookScript, NoHooks, ScriptedHooks


@dataclass(frozen=True)
class Run:
    argv: tuple[str, ...]
    timeout_s: float = 20.0


def python(code: str, timeout_s: float = 20.0) -> Run:
    return Run((sys.executable, "-I", "-S", "-c", code), timeout_s)


async def failure(hooks: CommandHooks) -> HookFailed:
    with pytest.raises(HookFailed) as caught:
        await hooks.drain()
    return caught.value


async def test_nothing_configured_is_done_and_healthy() -> None:
    for hooks in (NoHooks(), CommandHooks({})):
        await hooks.drain()
        await hooks.undrain()
        assert await hooks.healthy() == (True, "")


async def test_a_command_sees_its_variables_and_no_shell(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = (
        f"import os,sys;open({str(out)!r},'w').write("
        "'|'.join([os.environ[k] for k in "
        "('LIVEROLL_HOOK','LIVEROLL_NODE','LIVEROLL_ARTIFACT')]+sys.argv[1:]))"
    )
    run = Run((*python(code).argv, "$(id); *"))
    await CommandHooks({"probe": run}, {"LIVEROLL_NODE": "n1"}).demand("probe", LIVEROLL_ARTIFACT="sha256:x")
    assert out.read_text() == "probe|n1|sha256:x|$(id); *"


async def test_a_failure_keeps_the_last_words() -> None:
    error = await failure(
        CommandHooks({"drain": python("print('x' * 99999); print('no room'); raise SystemExit(3)")})
    )
    assert (error.reason, error.fields["status"]) == ("HOOK_FAILED", "3")
    assert error.fields["output"].endswith("no room")
    assert len(error.fields["output"]) <= OUTPUT_BYTES
    assert error.remedy


async def test_health_says_why_not() -> None:
    hooks = CommandHooks({"health": python("print('a'); print('disk is slow'); raise SystemExit(1)")})
    assert await hooks.healthy() == (False, "disk is slow")
    silent = CommandHooks({"health": python("raise SystemExit(1)")})
    assert await silent.healthy() == (False, "the health command failed with status 1")
    assert await CommandHooks({"health": python("")}).healthy() == (True, "")


async def test_a_command_that_is_not_there_asks_for_the_settings_to_be_mended() -> None:
    error = await failure(CommandHooks({"drain": Run(("/no/such/command",))}))
    assert (error.reason, error.retry) == ("HOOK_NOT_FOUND", Retry.FIX_STATE)


GROUP = "import os,sys,time\nif os.fork()==0: time.sleep(600)\nprint(os.getpid(),flush=True); time.sleep(600)"


async def gone(group: int) -> None:
    """Killed processes vanish when they are reaped, which init does in its own time."""
    async with asyncio.timeout(10):
        while any(_alive(int(pid), group) for pid in os.listdir("/proc") if pid.isdigit()):
            await asyncio.sleep(0)


def _alive(pid: int, group: int) -> bool:
    try:
        state, _, pgid = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[:3]
    except OSError:
        return False
    return int(pgid) == group and state != "Z"


async def test_a_timeout_kills_the_whole_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time is up once the command has said its first line: until then a busy machine may take long."""
    timeout, keep_tail = asyncio.timeout, hooks_module._keep_tail
    running: list[asyncio.Timeout] = []

    def noted(delay_s: float) -> asyncio.Timeout:
        running.append(timeout(delay_s))
        return running[-1]

    async def until_the_first_line(process: asyncio.subprocess.Process, output: bytearray) -> None:
        assert process.stdout is not None
        output += await process.stdout.readline()
        running[0].reschedule(asyncio.get_running_loop().time())
        await keep_tail(process, output)

    monkeypatch.setattr(asyncio, "timeout", noted)
    monkeypatch.setattr(hooks_module, "_keep_tail", until_the_first_line)
    error = await failure(CommandHooks({"drain": python(GROUP)}))
    assert error.reason == "HOOK_TIMEOUT"
    await gone(int(error.fields["output"].split()[0]))


async def test_cancelling_kills_the_whole_group(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    code = GROUP.replace("print(os.getpid(),flush=True)", f"open({str(fifo)!r},'w').write(str(os.getpid()))")
    task = asyncio.create_task(CommandHooks({"drain": python(code)}).drain())
    group = int(await asyncio.to_thread(fifo.read_text))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone(group)


async def test_a_script_counts_down_and_follows_the_kernel() -> None:
    script = HookScript(drain_fails=1, undrain_fails=-1, unhealthy_releases=frozenset({"7.3.5-bad"}))
    good, bad = ScriptedHooks(script, "7.2.13"), ScriptedHooks(script, "7.3.5-bad")
    with pytest.raises(HookFailed):
        await good.drain()
    await good.drain()
    for _ in range(2):
        with pytest.raises(HookFailed):
            await good.undrain()
    assert script.undrain_fails == -1
    assert await good.healthy() == (True, "")
    assert await bad.healthy() == (False, "the health probe failed under 7.3.5-bad")
    script.unhealthy = True
    assert await good.healthy() == (False, "the health probe failed")
