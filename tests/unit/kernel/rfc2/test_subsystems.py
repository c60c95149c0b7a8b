"""Subsystems: called in order, undone in reverse, each failing in each of its calls."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from node_agent.kernel.emulated.model import LuoModel
from node_agent.kernel.emulated.rfc2.memory import Blob, Memory
from node_agent.kernel.emulated.rfc2.states import LuoState
from node_agent.kernel.emulated.rfc2.subsystems import Subsystems
from tests.unit.kernel.rfc2.subsystem_boots import KHO_ONLY, boot, kexec, luo, raises, rfc2

NAMES = ("first", "second", "third")
COUPLINGS = ("notifier", "luo-driven")


class Spy:
    """A subsystem that tells what it is called for, and fails where it is told to."""

    def __init__(
        self, name: str, memory: Memory, told: list[str], *, fails: str = "", automatic: bool = False
    ) -> None:
        self.name, self.automatic = name, automatic
        self._memory, self._told, self._fails = memory, told, fails
        self.booted_with: object = "nothing"

    def prepare(self) -> int:
        address = self._memory.keep(Blob({"of": self.name}))
        self._tell("prepare")
        return address

    def freeze(self, data: int) -> int:
        newer = self._memory.keep(Blob({"of": self.name, "frozen": True}))
        self._tell("freeze")
        return newer

    def cancel(self, data: int) -> None:
        self._tell("cancel")

    def boot(self, data: int | None) -> None:
        self.booted_with = None if data is None else dict(self._memory.blob(data))
        self._tell("boot")

    def finish(self, data: int | None) -> None:
        self._tell("finish")

    def _tell(self, what: str) -> None:
        self._told.append(f"{what} {self.name}")
        if what == self._fails:
            raise OSError(errno.ENODEV, what)


class Participants:
    """Three spies in a boot, the same in the next; `fails` says which fails in what."""

    def __init__(self, coupling: str = "luo-driven", *, fails: tuple[str, str] = ("", "")) -> None:
        self.told: list[str] = []
        self._fails = fails
        self.model = boot(coupling=coupling, telemetry=False)
        self.register()
        self.told.clear()

    def register(self) -> None:
        """As modules do that are loaded late."""
        kernel = rfc2(self.model)
        for name in NAMES:
            fails = self._fails[1] if self._fails[0] == name else ""
            kernel.subsystems.register(Spy(name, kernel.memory, self.told, fails=fails), kernel.state)

    def kexec(self) -> None:
        kexec(self.model)
        self.register()

    def kept(self) -> int:
        return len(rfc2(self.model).memory)

    def complaints(self) -> list[str]:
        return [line for line in self.model.log if line.startswith("luo_subsystems")]


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_in_order_and_undone_in_reverse(coupling: str) -> None:
    parts = Participants(coupling)
    luo(parts.model).prepare()
    luo(parts.model).cancel()
    assert parts.told == [
        *(f"prepare {name}" for name in NAMES),
        *(f"cancel {name}" for name in reversed(NAMES)),
    ]
    assert parts.kept() == 0


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_live_update_boots_and_finishes_in_order(coupling: str) -> None:
    """Subsystems: `prepare, freeze, cancel, finish` (later `boot`)."""
    parts = Participants(coupling)
    luo(parts.model).prepare()
    parts.kexec()
    luo(parts.model).finish()
    assert parts.told == [
        f"{what} {name}" for what in ("prepare", "freeze", "boot", "finish") for name in NAMES
    ]
    assert luo(parts.model).state is LuoState.NORMAL
    assert parts.kept() == 0


def test_the_newest_state_crosses() -> None:
    parts = Participants()
    luo(parts.model).prepare()
    luo(parts.model).freeze()
    assert parts.kept() == len(NAMES), "what freeze replaced is given back"
    parts.kexec()
    spies = [spy for spy in rfc2(parts.model).subsystems.all if isinstance(spy, Spy)]
    assert [spy.booted_with for spy in spies] == [{"of": name, "frozen": True} for name in NAMES]


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("at", range(len(NAMES)), ids=NAMES)
def test_a_refused_prepare_undoes_those_before(coupling: str, at: int) -> None:
    """A subsystem that fails in each phase: the right errno, nothing leaked."""
    parts = Participants(coupling, fails=(NAMES[at], "prepare"))
    with raises(errno.ENODEV):
        luo(parts.model).prepare()
    assert parts.told == [
        *(f"prepare {name}" for name in NAMES[: at + 1]),
        *(f"cancel {name}" for name in reversed(NAMES[:at])),
    ]
    assert luo(parts.model).state is LuoState.NORMAL
    assert not rfc2(parts.model).kho.finalized
    assert rfc2(parts.model).kho.tree == {}
    assert parts.kept() == 0
    assert parts.complaints() == [
        f"luo_subsystems: Subsystem '{NAMES[at]}' prepare callback failed [-{errno.ENODEV}]"
    ]


@pytest.mark.parametrize("by_reboot", [False, True], ids=["ioctl", "reboot"])
@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("at", range(len(NAMES)), ids=NAMES)
def test_a_refused_freeze_undoes_all(coupling: str, at: int, by_reboot: bool) -> None:
    """A subsystem that fails in each phase; freeze failing ends in NORMAL."""
    parts = Participants(coupling, fails=(NAMES[at], "freeze"))
    luo(parts.model).prepare()
    with raises(errno.ENODEV):
        parts.kexec() if by_reboot else luo(parts.model).freeze()
    assert parts.told == [
        *(f"prepare {name}" for name in NAMES),
        *(f"freeze {name}" for name in NAMES[: at + 1]),
        *(f"cancel {name}" for name in reversed(NAMES)),
    ]
    assert luo(parts.model).state is LuoState.NORMAL
    assert parts.kept() == 0


@pytest.mark.parametrize("at", range(len(NAMES)), ids=NAMES)
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_failing_cancel_is_logged_and_the_others_are_cancelled(coupling: str, at: int) -> None:
    """A subsystem that fails in each phase: what it kept is given back for it."""
    parts = Participants(coupling, fails=(NAMES[at], "cancel"))
    luo(parts.model).prepare()
    luo(parts.model).cancel()
    assert parts.told[-3:] == [f"cancel {name}" for name in reversed(NAMES)]
    assert luo(parts.model).state is LuoState.NORMAL
    assert parts.kept() == 0
    assert parts.complaints() == [
        f"luo_subsystems: Subsystem '{NAMES[at]}' cancel callback failed [-{errno.ENODEV}]"
    ]
    luo(parts.model).prepare()


@pytest.mark.parametrize("what", ["boot", "finish"])
@pytest.mark.parametrize("at", range(len(NAMES)), ids=NAMES)
def test_a_failing_boot_or_finish_is_logged_and_the_others_go_on(at: int, what: str) -> None:
    """A subsystem that fails in each phase: FINISH gives back what is left."""
    parts = Participants(fails=(NAMES[at], what))
    luo(parts.model).prepare()
    parts.kexec()
    assert luo(parts.model).state is LuoState.UPDATED
    luo(parts.model).finish()
    assert parts.told[-6:] == [f"{call} {name}" for call in ("boot", "finish") for name in NAMES]
    assert luo(parts.model).state is LuoState.NORMAL
    assert parts.kept() == 0
    assert parts.complaints()[-1] == (
        f"luo_subsystems: Subsystem '{NAMES[at]}' {what} callback failed [-{errno.ENODEV}]"
    )


def test_a_plain_kexec_boots_without_anything_handed_over() -> None:
    parts = Participants()
    parts.kexec()
    spies = [spy for spy in rfc2(parts.model).subsystems.all if isinstance(spy, Spy)]
    assert [spy.booted_with for spy in spies] == [None] * 3


def test_what_no_subsystem_here_takes_goes_with_finish() -> None:
    """RFC v2 would panic the other way round: the tree lacks one that this kernel has."""
    parts = Participants()
    luo(parts.model).prepare()
    kexec(parts.model)
    assert parts.kept() == len(NAMES)
    luo(parts.model).finish()
    assert parts.kept() == 0


@pytest.mark.parametrize("what", ["prepare", "freeze"])
def test_after_a_refusal_none_is_prepared(what: str) -> None:
    """Whoever calls them need not undo what they began."""
    memory, told = Memory(), list[str]()
    spies = [Spy("first", memory, told), Spy("second", memory, told, fails=what)]
    subsystems = Subsystems(spies, told.append, memory)
    with raises(errno.ENODEV):
        for call in (subsystems.prepare, subsystems.freeze):
            call()
    assert subsystems.outgoing == {}
    assert len(memory) == 0


# --- registration


def test_a_name_is_registered_once() -> None:
    parts = Participants()
    with raises(errno.EEXIST):
        parts.register()
    assert len(rfc2(parts.model).subsystems.all) == 4
    assert parts.told == []


@pytest.mark.parametrize("freeze", [False, True], ids=["prepared", "frozen"])
def test_registration_is_closed_while_prepared_or_frozen(freeze: bool) -> None:
    parts = Participants()
    kernel = rfc2(parts.model)
    luo(parts.model).prepare()
    if freeze:
        luo(parts.model).freeze()
    late = Spy("late", kernel.memory, parts.told)
    with raises(errno.EBUSY):
        kernel.subsystems.register(late, kernel.state)
    with raises(errno.EBUSY):
        kernel.subsystems.unregister(kernel.subsystems.all[-1], kernel.state)


def test_unregistering() -> None:
    parts = Participants()
    kernel = rfc2(parts.model)
    kernel.subsystems.unregister(kernel.subsystems.all[-1], kernel.state)
    luo(parts.model).prepare()
    assert parts.told == ["prepare first", "prepare second"]
    luo(parts.model).cancel()
    with raises(errno.ENOENT):
        kernel.subsystems.unregister(Spy("unknown", kernel.memory, []), kernel.state)


@pytest.mark.parametrize("words", [None, KHO_ONLY], ids=["liveupdate", "kho only"])
def test_one_that_comes_late_may_be_automatic_whether_luo_is_on_or_not(words: str | None) -> None:
    """As a module's: auto-preserve needs no LUO, so where it is off registering is no EBUSY."""
    told: list[str] = []
    model = boot(*([words] if words else []), telemetry=False)

    def spy() -> Spy:
        return Spy("late", rfc2(model).memory, told, automatic=True)

    rfc2(model).subsystems.register(spy(), rfc2(model).state)
    kexec(model)
    rfc2(model).subsystems.register(late := spy(), rfc2(model).state)
    assert told == ["boot late", "prepare late", "boot late"]
    assert late.booted_with is None, "what came for it was given back when the kernel booted without it"
    rfc2(model).subsystems.unregister(late, rfc2(model).state)
    assert late not in rfc2(model).subsystems.all


# --- automatic ones


def automatic(model: LuoModel, told: list[str], *, fails: str = "") -> Spy:
    kernel = rfc2(model)
    spy = Spy("auto", kernel.memory, told, fails=fails, automatic=True)
    kernel.subsystems.all.append(spy)
    return spy


@pytest.mark.parametrize("words", [None, KHO_ONLY], ids=["liveupdate", "kho only"])
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_an_automatic_one_is_kept_at_any_kexec(coupling: str, words: str | None) -> None:
    """The seed thread: "Maybe we allow LUO subsystems to mark themselves as auto-preservable and LUO will
    preserve them regardless of state being prepared?\""""
    model, told = boot(*([words] if words else []), coupling=coupling, telemetry=False), []
    automatic(model, told)
    kernel = rfc2(model)
    kexec(model)
    assert told == ["prepare auto"]
    assert rfc2(model).kho.incoming.keys() == {"automatic"}
    assert rfc2(model).state is (None if words else LuoState.NORMAL), "it is no live update"
    assert "luo_subsystems: nothing here takes what 'auto' kept" in model.log
    assert len(rfc2(model).memory) == len(kernel.memory) == 0


def test_an_automatic_one_that_fails_is_left_behind() -> None:
    model, told = boot(telemetry=False), []
    automatic(model, told, fails="prepare")
    kernel, log = rfc2(model), model.log
    kexec(model)
    assert log[-1] == f"luo_subsystems: Subsystem 'auto' prepare callback failed [-{errno.ENODEV}]"
    assert rfc2(model).kho.incoming == {}
    assert len(kernel.memory) == 0


def test_luo_leaves_automatic_ones_alone() -> None:
    model, told = boot(telemetry=False), []
    automatic(model, told)
    luo(model).prepare()
    luo(model).freeze()
    luo(model).cancel()
    assert told == []


def test_what_came_automatically_is_given_back_after_boot() -> None:
    memory, told = Memory(), list[str]()
    address = memory.keep(Blob({"of": "auto"}))
    spy = Spy("auto", memory, told, automatic=True)
    Subsystems([spy], told.append, memory).boot({}, {"auto": address})
    assert spy.booted_with == {"of": "auto"}
    assert len(memory) == 0


def test_a_kernel_in_which_it_is_not_automatic_takes_it_all_the_same() -> None:
    memory, told = Memory(), list[str]()
    address = memory.keep(Blob({"of": "auto"}))
    spy = Spy("auto", memory, told)
    subsystems = Subsystems([spy], told.append, memory)
    subsystems.boot({}, {"auto": address})
    assert spy.booted_with == {"of": "auto"}
    subsystems.finish()
    assert told == ["boot auto", "finish auto"]


# --- failures that are made with the fault plan


@pytest.mark.parametrize(
    ("fault", "act"),
    [("refuse_prepare=EIO", lambda m: luo(m).prepare()), ("refuse_freeze=EIO", lambda m: kexec(m))],
    ids=["prepare", "freeze"],
)
def test_the_fault_plan_refuses(fault: str, act: Callable[[LuoModel], None]) -> None:
    model = boot(faults=fault, telemetry=False)
    if "freeze" in fault:
        luo(model).prepare()
    with raises(errno.EIO):
        act(model)
    assert luo(model).state is LuoState.NORMAL
    assert len(rfc2(model).memory) == 0
