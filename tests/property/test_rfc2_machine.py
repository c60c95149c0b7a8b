"""RFC v2's LUO over KHO, in both couplings, against a reference of a page: any order of calls, by ioctl, by
hand in debugfs and by kexec, with freezes and prepares that are refused."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from node_agent.kernel.emulated.model import LuoModel
from node_agent.kernel.emulated.rfc2.debugfs import FINALIZE_PATH
from node_agent.kernel.emulated.rfc2.states import Coupling
from node_agent.kernel.faults import FaultPlan
from tests.unit.kernel.rfc2 import corebench
from tests.unit.kernel.rfc2.corebench import FROZEN, NORMAL, PREPARED, UPDATED, luo_of, rfc2_of

PLACES = st.integers(0, 3)
REFUSED = "EAGAIN"


class Reference:
    """What must be true of a node, told in another way than the emulation is."""

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self.cold_boot()

    def cold_boot(self) -> None:
        self.state = NORMAL
        self.finalized = False
        self.registered: dict[int, bytes] = {}
        self.arrived: dict[int, bytes | None] = {}
        """None: it points to nothing."""
        self.restored: set[int] = set()
        self.stale: tuple[int, ...] = ()
        """Tokens in a subtree that a freeze that failed left in KHO's tree."""
        self.next_token = 0

    @property
    def driven(self) -> bool:
        return self.coupling is Coupling.LUO_DRIVEN

    def pages(self) -> int:
        """What is kept: one page a file."""
        if self.state in (PREPARED, FROZEN):
            return len(self.registered)
        return sum(content is not None for content in self.arrived.values())

    # --- each answers with an errno, or 0

    def preserve(self, content: bytes) -> int:
        if self.state is not NORMAL:
            return errno.EBUSY
        if content in self.registered.values():
            return errno.EEXIST
        self.registered[self.next_token] = content
        self.next_token += 1
        return 0

    def unpreserve(self, token: int) -> int:
        if self.state is not NORMAL:
            return errno.EBUSY
        return 0 if self.registered.pop(token, None) is not None else errno.ENOENT

    def restore(self, token: int) -> int:
        if self.state is not UPDATED:
            return errno.EBUSY
        if token not in self.arrived:
            return errno.ENOENT
        if self.arrived[token] is None:
            return errno.EFAULT
        if token in self.restored:
            return errno.EINVAL
        self.restored.add(token)
        return 0

    def prepare(self, *, refused: bool, by_hand: bool = False) -> int:
        if by_hand and self.driven:
            return errno.EOPNOTSUPP
        by_kho = by_hand or not self.driven
        # KHO is asked first by hand, LUO by the ioctl; the one that is asked first answers.
        if by_hand and self.finalized:
            return errno.EEXIST
        if self.state is not NORMAL:
            return errno.EINVAL
        if by_kho and self.finalized:
            return errno.EEXIST
        if refused:
            return errno.EAGAIN
        self.state, self.finalized = PREPARED, True
        return 0

    def freeze(self, *, refused: bool) -> int:
        if self.state is not PREPARED:
            return errno.EINVAL
        if refused:
            self.state = NORMAL
            self.finalized = not self.driven
            self.stale = () if self.driven else tuple(self.registered)
            return errno.EAGAIN
        self.state = FROZEN
        return 0

    def cancel(self, *, by_hand: bool = False) -> int:
        if by_hand and self.driven:
            return errno.EOPNOTSUPP
        if by_hand and not self.finalized:
            return errno.ENOENT
        if self.state not in (PREPARED, FROZEN):
            return errno.EINVAL
        self.state, self.finalized = NORMAL, False
        return 0

    def finish(self) -> int:
        if self.state is not UPDATED:
            return errno.EINVAL
        self.state, self.arrived, self.restored = NORMAL, {}, set()
        return 0

    def reboot(self, *, loaded: bool, refused: bool) -> int:
        if self.state is PREPARED and (failed := self.freeze(refused=refused)):
            return failed
        return 0 if loaded else errno.EINVAL

    def kexec(self) -> None:
        frozen, stale, registered, finalized = (
            self.state is FROZEN,
            self.stale,
            self.registered,
            self.finalized,
        )
        self.cold_boot()
        if frozen:
            self.state, self.arrived = UPDATED, dict(registered)
        elif finalized:
            self.state, self.arrived = UPDATED, dict.fromkeys(stale)
        self.next_token = max(self.arrived, default=-1) + 1


class Machine(RuleBasedStateMachine):
    """Both, side by side."""

    coupling: Coupling

    def __init__(self) -> None:
        super().__init__()
        self.before = corebench.descriptors()
        self.fds: dict[bytes, int] = {}
        self.boots = 0

    @initialize()
    def power_on(self) -> None:
        self.model: LuoModel = corebench.node(self.coupling)
        self.reference = Reference(self.coupling)

    def agree(self, expected: int, call: Callable[[], object]) -> object:
        """The call answers as the reference does."""
        found: object = None
        answer = 0
        try:
            found = call()
        except OSError as cause:
            answer = cause.errno or 0
        assert errno.errorcode.get(answer) == errno.errorcode.get(expected)
        return found

    def refusing(self, refused: bool, call: Callable[[], object]) -> None:
        if refused:
            self.model.faults = FaultPlan.parse(f"refuse_freeze={REFUSED},refuse_prepare={REFUSED}")
        try:
            call()
        finally:
            self.model.faults = FaultPlan()

    @rule(number=st.integers(0, 3))
    def preserve(self, number: int) -> None:
        content = b"file %d" % number
        if content not in self.fds:
            self.fds[content] = corebench.memfd(content)
        token = self.reference.next_token
        expected = self.reference.preserve(content)
        found = self.agree(expected, lambda: luo_of(self.model).fd_preserve(self.fds[content]))
        assert expected or found == token

    def token(self, place: int) -> int:
        """Of one of the files that there are, or of none."""
        tokens = [*self.reference.arrived, *self.reference.registered]
        return tokens[place] if place < len(tokens) else 99

    @rule(place=PLACES)
    def unpreserve(self, place: int) -> None:
        token = self.token(place)
        self.agree(self.reference.unpreserve(token), lambda: luo_of(self.model).fd_unpreserve(token))

    @rule(place=PLACES)
    def restore(self, place: int) -> None:
        token = self.token(place)
        fd = self.agree(self.reference.restore(token), lambda: luo_of(self.model).fd_restore(token))
        if isinstance(fd, int):
            assert os.pread(fd, 100, 0) == self.reference.arrived[token]
            os.close(fd)

    @rule(refused=st.booleans())
    def prepare(self, refused: bool) -> None:
        expected = self.reference.prepare(refused=refused)
        self.refusing(refused, lambda: self.agree(expected, luo_of(self.model).prepare))

    @rule(refused=st.booleans())
    def freeze(self, refused: bool) -> None:
        expected = self.reference.freeze(refused=refused)
        self.refusing(refused, lambda: self.agree(expected, luo_of(self.model).freeze))

    @rule()
    def cancel(self) -> None:
        self.agree(self.reference.cancel(), luo_of(self.model).cancel)

    @rule()
    def finish(self) -> None:
        self.agree(self.reference.finish(), luo_of(self.model).finish)

    @rule(refused=st.booleans())
    def finalize_by_hand(self, refused: bool) -> None:
        expected = self.reference.prepare(refused=refused, by_hand=True)
        self.refusing(
            refused,
            lambda: self.agree(expected, lambda: rfc2_of(self.model).debugfs_write(FINALIZE_PATH, "1")),
        )

    @rule()
    def abort_by_hand(self) -> None:
        expected = self.reference.cancel(by_hand=True)
        self.agree(expected, lambda: rfc2_of(self.model).debugfs_write(FINALIZE_PATH, "0"))

    @rule()
    def load(self) -> None:
        corebench.load(self.model, f"6.16-{self.boots}")

    @rule(refused=st.booleans())
    def reboot(self, refused: bool) -> None:
        expected = self.reference.reboot(loaded=self.model.loaded, refused=refused)
        self.refusing(refused, lambda: self.agree(expected, self.model.freeze))
        if not expected:
            assert self.model.jump().arrived
            self.model.arrive()
            self.reference.kexec()
            self.boots += 1

    @rule()
    def whole_update(self) -> None:
        """What comes of it depends on the state, as with each of the calls."""
        self.prepare(refused=False)
        self.load()
        self.reboot(refused=False)

    @precondition(lambda self: self.boots)
    @rule()
    def cold_boot(self) -> None:
        self.model.cold_boot()
        self.reference.cold_boot()

    @invariant()
    def the_same(self) -> None:
        if not hasattr(self, "model"):
            return
        facts, rfc2 = self.model.facts(), rfc2_of(self.model)
        assert facts.luo_state == str(self.reference.state)
        assert facts.kho_finalized is self.reference.finalized
        assert set(rfc2.files.outgoing) == set(self.reference.registered)
        assert len(rfc2.memory) == self.reference.pages()
        assert self.model.leaked_bytes == 0
        if self.reference.driven:
            assert facts.kho_finalized is (self.reference.state in (PREPARED, FROZEN))
            assert ("LUO" in rfc2.kho.tree) is facts.kho_finalized

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.model.power_off()
        for fd in self.fds.values():
            os.close(fd)
        assert corebench.descriptors() == self.before, "descriptors leak"


class Notifier(Machine):
    coupling = Coupling.NOTIFIER


class LuoDriven(Machine):
    coupling = Coupling.LUO_DRIVEN


TestNotifier = Notifier.TestCase
TestNotifier.settings = settings(max_examples=80, stateful_step_count=40)
TestLuoDriven = LuoDriven.TestCase
TestLuoDriven.settings = settings(max_examples=80, stateful_step_count=40)
