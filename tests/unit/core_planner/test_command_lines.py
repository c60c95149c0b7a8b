"""Kernel command lines of a node's way there and back again, as they are sent with PREPARE."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.core.model import DesiredPrepare
from orchestrator.core.phases import Goal, Kind
from orchestrator.core.spec import RolloutSpec, Target
from tests.unit.core_planner.builders import World, node, spec

BEFORE = 'root=sda quiet loglevel=7 dyndbg="x +p" debug kho=off'
TARGETS = {
    "nothing": Target("linux"),
    "append": Target("linux", (), ("nosmt", "a=1")),
    "remove": Target("linux", ("loglevel=", "quiet")),
    "replace": Target("linux", ("loglevel=", "debug"), ("loglevel=3",)),
    "append-what-is-there": Target("linux", (), ("quiet",)),
}

GOLDEN = """
before   root=sda quiet loglevel=7 dyndbg="x +p" debug kho=off
target   nothing
forward  root=sda quiet loglevel=7 dyndbg="x +p" debug kho=on liveupdate=on liveroll.attempt=1-inc1
back     root=sda quiet loglevel=7 dyndbg="x +p" debug kho=on liveupdate=on liveroll.attempt=2-inc1
target   append
forward  root=sda quiet loglevel=7 dyndbg="x +p" debug nosmt a=1 kho=on liveupdate=on liveroll.attempt=1-inc1
back     root=sda quiet loglevel=7 dyndbg="x +p" debug kho=on liveupdate=on liveroll.attempt=2-inc1
target   remove
forward  root=sda dyndbg="x +p" debug kho=on liveupdate=on liveroll.attempt=1-inc1
back     root=sda quiet loglevel=7 dyndbg="x +p" debug kho=on liveupdate=on liveroll.attempt=2-inc1
target   replace
forward  root=sda quiet dyndbg="x +p" loglevel=3 kho=on liveupdate=on liveroll.attempt=1-inc1
back     root=sda quiet loglevel=7 dyndbg="x +p" debug kho=on liveupdate=on liveroll.attempt=2-inc1
target   append-what-is-there
forward  root=sda quiet loglevel=7 dyndbg="x +p" debug kho=on liveupdate=on liveroll.attempt=1-inc1
back     root=sda quiet loglevel=7 dyndbg="x +p" debug kho=on liveupdate=on liveroll.attempt=2-inc1
"""


def there_and_back(target: Target, *, known: bool = True) -> list[str]:
    """The lines of the attempts on n0: forward, then back. The node runs what it is sent."""
    wanted: RolloutSpec = replace(spec(), target=target)
    w = World([node("n0", command_line=BEFORE), node("n1")])
    w.rollout(wanted, waves=[["n0"], ["n1"]])
    w.run(until="BAKING")
    forward = w.attempt("n0").command_line
    w.set_node("n0", command_line=forward)
    if not known:
        w.set_member("n0", from_command_line=None)
    w.set_rollout(goal=Goal.BACK)
    w.settle_plans()
    back = w.attempt("n0")
    assert back.kind is Kind.ROLLBACK
    desired = w.node("n0").desired
    assert isinstance(desired, DesiredPrepare)
    assert desired.command_line == back.command_line
    return [forward, back.command_line]


def test_there_and_back() -> None:
    """Whatever the target did to the line, the way back has the node's own words again."""
    told = [f"before   {BEFORE}"]
    for name, target in TARGETS.items():
        forward, back = there_and_back(target)
        told += [f"target   {name}", f"forward  {forward}", f"back     {back}"]
    assert told == GOLDEN.strip().splitlines()


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_rollback_has_the_words_that_the_node_came_with(target: Target) -> None:
    _, back = there_and_back(target)
    own = [w for w in BEFORE.split() if w != "kho=off"]
    assert back.split() == [*own, "kho=on", "liveupdate=on", "liveroll.attempt=2-inc1"]


def test_a_retry_does_not_forget_the_line_from_before_the_first_crossing() -> None:
    w = World([node("n0", command_line=BEFORE), node("n1")])
    w.rollout(spec(), waves=[["n0"], ["n1"]])
    w.run(until="BAKING")
    assert w.member("n0").from_command_line == BEFORE
    w.set_node("n0", command_line="something else")
    w.set_rollout(goal=Goal.BACK)
    w.settle_plans()
    assert w.member("n0").from_command_line == BEFORE


def test_a_row_of_an_older_release_goes_back_from_the_line_of_now() -> None:
    target = Target("linux", ("loglevel=",), ("nosmt",))
    forward, back = there_and_back(target, known=False)
    assert "nosmt" in forward
    assert "nosmt" not in back
    assert "loglevel=" not in back
