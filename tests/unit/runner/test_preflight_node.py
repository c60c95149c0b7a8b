"""Preflight as a node performs it: refused ahead of its turn and untouched, or passed over aloud."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from node_agent.core import commands as cmd
from node_agent.core.model import ArtifactRef
from node_agent.core.phases import Phase
from node_agent.kernel.emulated.model import Machine
from node_agent.ports import LiveUpdateAbi, StagedArtifact
from tests.unit.runner.lab import COMMAND_LINE, NEW, OLD, SESSIONS_ABI, Artifacts, Lab, spoken


def same() -> LiveUpdateAbi:
    return spoken() or SESSIONS_ABI


def other() -> LiveUpdateAbi:
    """Strings of the same model, in a version that the running kernel does not speak."""
    return replace(same(), kho="kho-v995")


@dataclass
class Speaking(Artifacts):
    """Artifacts whose target says what it speaks and takes."""

    abi: LiveUpdateAbi | None = field(default_factory=spoken)
    init_bytes: int = 0

    async def get(self, digest: str) -> StagedArtifact:
        staged = await super().get(digest)
        return (
            replace(staged, live_update=self.abi, init_bytes=self.init_bytes) if digest[0] == "n" else staged
        )


async def stage(lab: Lab, command_id: str) -> StagedArtifact | str:
    """STAGE the target; the reason it was refused for, "" if it was not."""
    count = sum(r.event == "Staged" for r in lab.runner.reports())
    lab.runner.submit(cmd.Stage(command_id, ArtifactRef("linux", "n" * 64, "", NEW)))
    await lab.base.until(lambda: sum(r.event == "Staged" for r in lab.runner.reports()) > count)
    result = lab.runner.reports()[-1].stage
    assert result is not None
    assert result.verified is (result.problem is None)
    return result.problem.reason if result.problem is not None else ""


def untouched(lab: Lab) -> bool:
    """No hook ran, nothing was loaded, preserved or suspended."""
    calls = ("hooks.drain", "kernel.load", "kernel.create_session", "workloads.preserve", "workloads.suspend")
    return not any(lab.calls[call] for call in calls) and not lab.suspended()


async def test_a_target_that_speaks_otherwise_is_refused_ahead_of_its_turn() -> None:
    async with Lab() as lab:
        lab.artifacts = Speaking(abi=other())
        lab.runner._ports.artifacts._target = lab.artifacts  # type: ignore[attr-defined]
        assert await stage(lab, "s1") == "TARGET_ABI_DIFFERS"
        assert untouched(lab)
        assert (await lab.runner.hello()).staged_artifacts == ("o" * 64,)
        assert await lab.update() is Phase.ABORTED
        assert lab.problem() == "TARGET_ABI_DIFFERS"
        assert untouched(lab)
        lab.artifacts.abi = same()
        assert await stage(lab, "s2") == ""
        assert set((await lab.runner.hello()).staged_artifacts) == {"o" * 64, "n" * 64}
        assert await lab.update(2) is Phase.BAKING


async def test_without_room_in_scratch_nothing_is_loaded() -> None:
    async with Lab(machine=Machine(scratch_bytes=1 << 20)) as lab:
        lab.artifacts = Speaking(init_bytes=2 << 20)
        lab.runner._ports.artifacts._target = lab.artifacts  # type: ignore[attr-defined]
        assert await stage(lab, "s1") == "TARGET_SCRATCH_TOO_SMALL"
        assert await lab.update() is Phase.ABORTED
        assert lab.problem() == "TARGET_SCRATCH_TOO_SMALL"
        assert untouched(lab)


async def test_a_persons_word_goes_on_and_is_kept() -> None:
    async with Lab() as lab:
        lab.artifacts = Speaking(abi=other())
        lab.runner._ports.artifacts._target = lab.artifacts  # type: ignore[attr-defined]
        lab.runner.submit(
            cmd.LocalPrepare("here", "n" * 64, COMMAND_LINE, skip_preflight=True, rollback_none=True)
        )
        assert await lab.reach(Phase.PRESERVED, Phase.ABORTED) is Phase.PRESERVED
        attempt = lab.runner.attempt
        assert attempt is not None
        assert (attempt.skip_preflight, attempt.skipped) == (True, ("TARGET_ABI_DIFFERS",))
        told = next(r for r in lab.runner.reports() if r.event == "Loaded")
        assert told.problem is not None
        assert told.problem.reason == "PREFLIGHT_SKIPPED"
        assert any("Loaded → DRAINING (PREFLIGHT_SKIPPED)" in str(line) for line in lab.runner.story())
        assert lab.problem() == ""
        lab.runner.submit(cmd.LocalCancel("back"))
        assert await lab.settle() is Phase.ABORTED
        assert (await lab.runner._ports.kernel.facts()).release == OLD


async def test_who_skips_what_finds_nothing_has_nothing_to_tell() -> None:
    async with Lab() as lab:
        lab.runner.submit(cmd.LocalPrepare("here", "n" * 64, COMMAND_LINE, skip_preflight=True))
        assert await lab.reach(Phase.PRESERVED, Phase.ABORTED) is Phase.PRESERVED
        assert not any("PREFLIGHT" in str(line) for line in lab.runner.story())
