"""What operators get wrong, through the real CLI against a real orchestrator: the exit code, a line that
says what, a line that says how to mend it, and never a traceback (conftest.run sees to that)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deploy.local import LocalFleet, local_fleet
from orchestrator.artifacts.build import build_emulated
from tests.integration.conftest import NEW, Done, Operator, liveroll

GOOD = f"""\
name: g
target: {{artifact: linux-{NEW}}}
selection: {{selector: pool=test}}
bake: {{node: 5m, wave: 5m}}
"""
MANY = f"""\
name: Bad Name
target: {{artifact: linux-{NEW}}}
budgets:
  max_unavailable: 0
  max_in_blackout: 200%
bake: {{node: soon}}
waves:
  - name: a
    size: 10%
  - size: x
gates:
  - blackout: {{quantile: 2}}
"""


@asynccontextmanager
async def two(directory: Path) -> AsyncIterator[LocalFleet]:
    """Two linked nodes."""
    async with local_fleet(directory, heartbeat_s=0.3, grace_s=1) as fleet:
        build_emulated(fleet.artifacts_dir, release=NEW)
        build_emulated(fleet.artifacts_dir, release="6.19.9")
        await fleet.start_orchestrator()
        await fleet.start_agents("n", "--nodes", "2", "--label", "pool=test", "--kexec-s", "0.3")
        await asyncio.to_thread(Operator(fleet).wait_for_links, 2)
        yield fleet


async def create(fleet: LocalFleet, name: str, text: str) -> Done:
    file = fleet.directory / f"{name}.yaml"
    file.write_text(text)
    return await liveroll(fleet, "create", str(file))


async def told(fleet: LocalFleet, cases: Sequence[tuple[str, str, tuple[str, ...]]]) -> None:
    """Each file's text is refused with 2, in these words, and nothing is made."""
    for start in range(0, len(cases), 3):
        some = cases[start : start + 3]
        ends = await asyncio.gather(*(create(fleet, name, text) for name, text, _ in some))
        for (name, _, words), done in zip(some, ends, strict=True):
            assert done.status == 2, (name, done)
            for word in words:
                assert word.replace("FILE", f"{fleet.directory}/{name}.yaml") in done.err, (name, done.err)
            assert "nothing was created" in done.err, (name, done.err)
    assert not Operator(fleet).events_of("rollout.created")


@pytest.mark.integration
async def test_files_that_cannot_be(directory: Path) -> None:
    async with two(directory) as fleet:
        altered = fleet.artifacts_dir / "linux-6.19.9" / "vmlinuz"
        data = bytearray(altered.read_bytes())
        data[-1] ^= 1
        altered.write_bytes(data)
        await told(
            fleet,
            [
                (
                    "many",
                    MANY,
                    (
                        "FILE:1: name: 'Bad Name' is not a name",
                        "FILE:4: budgets.max_unavailable: 0 is less than 1\n    Give at least 1.",
                        "FILE:5: budgets.max_in_blackout: '200%' is not above 0% and at most 100%",
                        "FILE:6: bake.node: 'soon' is not a duration\n    Write for instance 30s",
                        "FILE:10: waves[1].size: 'x' is neither a count nor a percentage",
                        "FILE:12: gates[0].blackout.quantile: it is 2",
                        "7 problems; nothing was created",
                    ),
                ),
                ("yaml", "name: [\n", ("FILE:2: not YAML", "Mend the line")),
                (
                    "typo",
                    GOOD + "budget: {}\n",
                    ("FILE:5: budget: there is no such field", "Did you mean budgets?"),
                ),
                (
                    "nobody",
                    GOOD.replace("pool=test", "pool=none"),
                    ("FILE:3: selection.selector: no node has pool=none", "Values of pool: test."),
                ),
                (
                    "label",
                    GOOD.replace("pool=test", "rack=r1"),
                    ("FILE:3: selection.selector: no node has a label rack", "Labels that nodes have: "),
                ),
                (
                    "syntax",
                    GOOD.replace("pool=test", "pool in (a"),
                    ("FILE:3: selection.selector: column 11: expected ')'", "Write for instance pool=prod"),
                ),
                (
                    "names",
                    GOOD.replace("{selector: pool=test}", "{nodes: [n-01, n-99]}"),
                    ("FILE:3: selection.nodes: no node is called n-99", "Start its agent first"),
                ),
                (
                    "artifact",
                    GOOD.replace(f"linux-{NEW}", "linux-0"),
                    ("liveroll: no artifact 'linux-0'", f"    did you mean linux-6.19.9 or linux-{NEW}?"),
                ),
                (
                    "budgets",
                    GOOD + "budgets: {max_unavailable: 1, domain: {key: zone, max_unavailable: 2}}\n",
                    (
                        "FILE:5: budgets.domain.max_unavailable: a domain may lose 2, the whole ",
                        "Make the domain's cap smaller",
                    ),
                ),
            ],
        )
        done = await create(fleet, "altered", GOOD.replace(NEW, "6.19.9"))
        assert done.status == 3
        assert done.lines[0] == (
            "liveroll: kernel vmlinuz was altered: its sha256 differs from the manifest's; "
            "nothing was created"
        )
        assert "build the artifact again" in done.lines[1]


@pytest.mark.integration
async def test_words_out_of_place(directory: Path) -> None:
    async with two(directory) as fleet:
        made = await create(fleet, "g", GOOD)
        assert made.status == 0, made.err
        again, other = await asyncio.gather(
            create(fleet, "g2", GOOD), create(fleet, "g3", GOOD + "health_hold: 1s\n")
        )
        assert again.status == 0, "the same file again is the same rollout"
        assert other.status == 2
        assert other.lines == [
            "liveroll: rollout g exists with another body; nothing was created",
            "    Choose another name, or send the same body. Different: health_hold.",
        ]
        assert len(Operator(fleet).events_of("rollout.created")) == 1
        cases = {
            ("resume", "g"): (3, "rollout g is RUNNING: resume is not possible", "Possible now: "),
            ("approve", "g"): (3, "no wave of g waits for an approval", "liveroll why"),
            ("write-off", "n-01", "-m", "x"): (3, "n-01: it is linked", "Use maintenance or exclude"),
            ("get", "zz"): (2, "there is no rollout zz", "See `liveroll list`."),
            ("story", "zz"): (2, "there is no node zz", "See `liveroll nodes`."),
            ("exclude", "g", "zz", "-m", "x"): (2, "zz is no member of rollout g", "See `liveroll get`."),
            ("events", "--since", "bogus:1"): (
                2,
                "bogus:1 is of another life of the store",
                "All that is kept: liveroll events --since ",
            ),
            ("create", "absent.yaml"): (2, "cannot read absent.yaml", "`liveroll example` prints one"),
        }
        ends = await asyncio.gather(*(liveroll(fleet, *words) for words in cases))
        for (words, (status, said, remedy)), done in zip(cases.items(), ends, strict=True):
            assert done.status == status, (words, done)
            assert said in done.err, (words, done)
            assert remedy in done.err, (words, done)
            assert len(done.lines) <= 3, (words, done)
        cancelled = await liveroll(fleet, "cancel", "g", "-m", "enough")
        assert cancelled.status == 0
        await asyncio.to_thread(Operator(fleet).wait_for_end, "g")
        done = await liveroll(fleet, "cancel", "g")
        assert done.status == 3
        assert "rollout g is CANCELLED: cancel is not possible" in done.err
