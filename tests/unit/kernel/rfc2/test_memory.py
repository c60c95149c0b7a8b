"""What is kept, by address, and what crosses of it."""

from __future__ import annotations

import errno

import pytest

from node_agent.kernel.emulated.rfc2.kho import Handed, Kho
from node_agent.kernel.emulated.rfc2.memory import FIRST_ADDRESS, PAGE_BYTES, Blob, Memory, numbers_in
from tests.unit.kernel.rfc2.corebench import raises


class Thing:
    """Something to keep that knows how often it was given back."""

    def __init__(self, size_bytes: int = 1) -> None:
        self.size_bytes = size_bytes
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_what_is_kept_is_found_and_given_back_once() -> None:
    memory, thing = Memory(), Thing()
    address = memory.keep(thing)
    assert (memory.at(address), len(memory), memory.size_bytes) == (thing, 1, 1)
    memory.free(address)
    memory.discard([address])
    assert (thing.closed, len(memory)) == (1, 0)
    for call in (memory.at, memory.free, memory.take, memory.blob):
        with raises(errno.EFAULT):
            call(address)


def test_what_is_discarded_is_given_back() -> None:
    memory, things = Memory(), [Thing(), Thing()]
    addresses = [memory.keep(thing) for thing in things]
    memory.discard([addresses[0], 7, addresses[0]])
    assert ([thing.closed for thing in things], len(memory)) == ([1, 0], 1)


def test_no_address_is_used_twice_not_even_by_the_next_kernel() -> None:
    memory = Memory()
    first = memory.keep(Thing())
    memory.free(first)
    kho = Kho(memory, finalized=True, tree={"stale": {"data": first}})
    handed = kho.hand_over()
    assert handed is not None
    after = Memory(handed.kept, first_address=handed.next_address)
    assert after.keep(Thing()) == first + PAGE_BYTES
    assert Memory({FIRST_ADDRESS + 8 * PAGE_BYTES: Thing()}).keep(Thing()) == FIRST_ADDRESS + 9 * PAGE_BYTES


def test_no_room() -> None:
    memory, thing = Memory(limit_bytes=10), Thing(11)
    with raises(errno.ENOMEM):
        memory.keep(thing)
    assert (thing.closed, len(memory)) == (1, 0)
    memory.keep(Thing(10))


def test_a_blob_is_plain_values() -> None:
    memory = Memory()
    assert memory.blob(memory.keep(Blob({"a": 1}))) == {"a": 1}
    other = memory.keep(Thing())
    with raises(errno.EFAULT):
        memory.blob(other)


def test_reach_follows_what_points_on() -> None:
    memory = Memory()
    deep, lone = memory.keep(Thing()), memory.keep(Thing())
    middle = memory.keep(Blob({"at": deep}, points_to=[deep]))
    circle = memory.keep(Blob({}, points_to=[middle, memory.next_address]))
    assert set(memory.reach([circle, 0, 7])) == {circle, middle, deep}
    assert set(memory.reach([lone, lone])) == {lone}
    assert set(memory.reach([])) == set()


def test_what_arrived_does_not_cross_again_by_itself() -> None:
    memory = Memory({FIRST_ADDRESS: Thing()})
    own = memory.keep(Thing())
    assert memory.own() == (own,)
    assert memory.addresses() == (FIRST_ADDRESS, own)


def test_numbers_of_a_tree() -> None:
    assert list(numbers_in({"a": 1, "b": {"c": 2, "d": "no"}, "e": {}})) == [1, 2]


@pytest.mark.parametrize("finalized", [False, True])
def test_what_a_kexec_carries(finalized: bool) -> None:
    """Automatic subtrees and what they point to in any case; the tree, and all that is kept, if finalized."""
    memory = Memory()
    things = {name: Thing() for name in ("automatic", "tree", "nobody's")}
    at = {name: memory.keep(thing) for name, thing in things.items()}
    kho = Kho(memory, finalized=finalized, tree={"LUO": {"data": at["tree"]}})
    kho.automatic["automatic"] = {"x": at["automatic"]}
    handed = kho.hand_over()
    assert handed is not None
    assert handed.tree.keys() == ({"LUO", "automatic"} if finalized else {"automatic"})
    crossing = set(at) if finalized else {"automatic"}
    assert set(handed.kept) == {at[name] for name in crossing}
    assert {name for name, thing in things.items() if not thing.closed} == crossing
    assert len(memory) == 0
    assert handed.drop() == len(crossing)
    assert all(thing.closed == 1 for thing in things.values())


@pytest.mark.parametrize("finalized", [False, True])
def test_without_a_tree_nothing_crosses(finalized: bool) -> None:
    memory, thing = Memory(), Thing()
    memory.keep(thing)
    assert Kho(memory, finalized=finalized).hand_over() is None
    assert (thing.closed, len(memory)) == (1, 0)


def test_without_a_subtree() -> None:
    """What only that one points to is given back; what others point to stays, by way of a blob too."""
    mine, theirs, deep = Thing(), Blob({}, points_to=[3 * PAGE_BYTES]), Thing()
    handed = Handed(
        {"LUO": {"data": PAGE_BYTES, "also": 2 * PAGE_BYTES}, "other": {"n": 2 * PAGE_BYTES}},
        {PAGE_BYTES: mine, 2 * PAGE_BYTES: theirs, 3 * PAGE_BYTES: deep},
    )
    left, lost_bytes = handed.without("LUO")
    assert (left.tree.keys(), set(left.kept)) == ({"other"}, {2 * PAGE_BYTES, 3 * PAGE_BYTES})
    assert (lost_bytes, mine.closed, deep.closed) == (1, 1, 0)


def test_kho_by_itself() -> None:
    kho = Kho()
    kho.add_subtree("a", {})
    with raises(errno.EEXIST):
        kho.add_subtree("a", {})
    kho.remove_subtree("a")
    kho.remove_subtree("a")
    with raises(errno.ENOENT):
        kho.abort()
    kho.finalize()
    with raises(errno.EEXIST):
        kho.finalize()
    kho.abort()
    kho.log("nobody reads this")
