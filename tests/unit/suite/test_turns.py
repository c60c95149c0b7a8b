"""Tests of real processes run in two lanes, however many workers there are; all others one by one."""

from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from tests.turns import LANES, PROCESSES, Turns, lanes

SIZES = (9, 5, 4, 4, 1)
HEAVY = [f"{PROCESSES}test_m{m}.py::test_{i}" for m, size in enumerate(SIZES) for i in range(size)]
LIGHT = [f"tests/sim/test_seeds.py::test_seeds[{i}]" for i in range(30)]


class Worker:
    """A worker of xdist as its scheduler sees it: it runs a test once it knows the next one."""

    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.shutting_down = False
        self.queue: list[int] = []

    def send_runtest_some(self, indices: list[int]) -> None:
        self.queue += indices

    def shutdown(self) -> None:
        self.shutting_down = True

    @property
    def runs(self) -> int | None:
        ready = len(self.queue) >= 2 or (self.shutting_down and self.queue)
        return self.queue[0] if ready else None


def started(workers: int, collection: list[str]) -> tuple[Any, list[Worker]]:
    config = SimpleNamespace(
        getvalue=lambda name: [f"{workers}*popen"] if name == "tx" else "loadgroup",
        option=SimpleNamespace(loadscopereorder=True),
    )
    scheduler: Any = Turns(config)  # type: ignore[arg-type]
    made = [Worker(f"gw{i}") for i in range(workers)]
    for worker in made:
        scheduler.add_node(worker)
        scheduler.add_node_collection(worker, collection)
    scheduler.schedule()
    return scheduler, made


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_at_most_two_at_a_time_and_every_test_once(workers: int) -> None:
    collection = LIGHT[:10] + HEAVY + LIGHT[10:]
    scheduler, made = started(workers, collection)
    rng, ran = random.Random(workers), Counter[int]()
    while running := [w for w in made if w.runs is not None]:
        heavy = [w for w in running if collection[w.queue[0]].startswith(PROCESSES)]
        assert len(heavy) <= LANES
        worker = rng.choice(running)
        done = worker.queue.pop(0)
        ran[done] += 1
        scheduler.mark_test_complete(worker, done)
    assert ran == Counter(range(len(collection)))
    assert scheduler.tests_finished


def test_lanes_are_alike_and_modules_whole() -> None:
    found = lanes(HEAVY + LIGHT)
    lengths = Counter(found[test.partition("::")[0]] for test in HEAVY)
    assert sorted(lengths.values()) == [10, 13]
    assert set(found) == {test.partition("::")[0] for test in HEAVY}


def test_the_hook_makes_it_for_loadgroup_only(pytestconfig: pytest.Config) -> None:
    from tests.conftest import pytest_xdist_make_scheduler

    config: Any = SimpleNamespace(getvalue=lambda name: ["1*popen"] if name == "tx" else "loadfile")
    assert pytest_xdist_make_scheduler(config, None) is None
    config = SimpleNamespace(getvalue=lambda name: ["1*popen"] if name == "tx" else "loadgroup")
    assert isinstance(pytest_xdist_make_scheduler(config, None), Turns)
