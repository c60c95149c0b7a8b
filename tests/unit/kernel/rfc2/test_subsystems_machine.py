"""Any order of events, by LUO and by hand, with any subsystem failing anywhere: nothing leaks, and a region's
content is there exactly if something preserved it."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from node_agent.kernel.emulated.model import LuoModel
from node_agent.kernel.emulated.rfc2.states import TRANSITIONS, LuoEvent, LuoState
from tests.unit.kernel.rfc2.subsystem_boots import ON, boot, kexec, luo, rfc2
from tests.unit.kernel.rfc2.test_subsystems import Spy

REGION = "reserve_mem=8K:64:r"
FAILURES = ("", "", "", "prepare", "freeze", "cancel", "boot", "finish")


class Subsystems(RuleBasedStateMachine):
    """One node over many boots. Spies stand before and after reserve_mem's, one of them automatic."""

    model: LuoModel

    @initialize(
        coupling=st.sampled_from(("notifier", "luo-driven")),
        way=st.sampled_from(("luo", "kho")),
        auto=st.booleans(),
        fails=st.tuples(*[st.sampled_from(FAILURES)] * 3),
    )
    def power_on(self, coupling: str, way: str, auto: bool, fails: tuple[str, ...]) -> None:
        self.way, self.coupling, self.auto = way, coupling, auto and way == "luo"
        self.fails = fails
        self.model = boot(
            f"{ON} {REGION}",
            coupling=coupling,
            reserve_mem=way,
            auto_preserve=("reserve_mem",) if auto else (),
        )
        self.content = bytes(4)
        self.register()

    def register(self) -> None:
        kernel = rfc2(self.model)
        spies = [
            Spy(f"spy-{n}", kernel.memory, [], fails=fails, automatic=n == 2)
            for n, fails in enumerate(self.fails)
        ]
        kernel.subsystems.all[0:0] = spies[:1]
        for spy in spies[1:]:
            kernel.subsystems.all.append(spy)

    def attempt(self, act: Any) -> bool:
        try:
            act()
        except OSError:
            return False
        return True

    @rule(event=st.sampled_from(LuoEvent))
    def any_event(self, event: LuoEvent) -> None:
        self.attempt(getattr(luo(self.model), event))

    @rule(pick=st.integers(0, 1))
    def legal_event(self, pick: int) -> None:
        """Half of all events at random are refused; these are not."""
        state = luo(self.model).state
        legal = [event for before, event in TRANSITIONS if before is state]
        self.attempt(getattr(luo(self.model), legal[pick % len(legal)]))

    @rule()
    def live_update(self) -> None:
        """Prepared and left in one go, so that UPDATED is no rare state."""
        if self.attempt(luo(self.model).prepare):
            self.reboot()

    @rule(value=st.sampled_from("01"))
    def by_hand(self, value: str) -> None:
        self.attempt(lambda: rfc2(self.model).debugfs_write("kho/out/finalize", value))

    @rule(content=st.binary(min_size=4, max_size=4))
    def write(self, content: bytes) -> None:
        self.model.reserved.region("r").write(4094, content)
        self.content = content

    @rule()
    def reboot(self) -> None:
        old = rfc2(self.model)
        if not self.attempt(lambda: kexec(self.model)):
            return
        by_luo = old.state is LuoState.FROZEN
        by_kho = self.coupling == "notifier" and old.kho.finalized
        if not (self.auto or (by_luo if self.way == "luo" else by_kho)):
            self.content = bytes(4)
        assert len(old.memory) == 0, "what did not cross is given back"
        assert (luo(self.model).state is LuoState.UPDATED) is (by_luo or by_kho)
        self.register()

    @rule(power_fails=st.sampled_from((True, False, False, False)))
    def cold_boot(self, power_fails: bool) -> None:
        if not power_fails:
            return
        self.model.cold_boot()
        self.content = bytes(4)
        self.register()

    @invariant()
    def content_is_there(self) -> None:
        assert self.model.reserved.region("r").read(4094, 4) == self.content

    @invariant()
    def nothing_leaks(self) -> None:
        kernel = rfc2(self.model)
        preparing = luo(self.model).state in (LuoState.PREPARED, LuoState.FROZEN)
        regions = self.way == "kho" and kernel.kho.finalized and self.coupling == "notifier"
        if not preparing:
            assert kernel.subsystems.outgoing == {}
            assert len(kernel.memory.own()) == int(regions)
        if luo(self.model).state is LuoState.NORMAL:
            assert len(kernel.memory) == len(kernel.memory.own())


Subsystems.TestCase.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
TestSubsystems = Subsystems.TestCase
