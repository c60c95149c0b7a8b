"""The commands of a transcript: what a person writes into data/*.txt.

fleet nodes=6 zones=ab models=m1,m1,m2    nodes n0 … link for the first time
policy unavailable=2 blackout=1           the fleet's own budgets
create r1 WORDS                           see specs.py
run 30s | run r1 | run n0=PRESERVED       for a while, until it ends, until nodes are in a phase
turn 3                                    that many seconds, a second at a time
plan                                      one plan, committed; agents do nothing
wait 60s                                  time passes, linked agents beat, nobody plans
show [r1]                                 where it stands, and why it does not go on
why r1 n0                                 what an operator is told
pause | resume | approve | cancel | rollback | retry | exclude | commit r1 …
write-off n3 REASON · maintenance n3 REASON · stop REASON · release
accept REASON                             release over what nodes have done beyond the store
differences                               what that is
agent n2 stop_at=… fail_at=… retry=… times=… jump=… unhealthy deaf blackout=2s
reinstall n2 release=6.12.0               somebody boots another kernel by hand
power-cycle n2                            it boots cold, into what is its default
hand n2 prepared | hand n2 normal         somebody drives its LUO by hand, and has done
cut n2 | vanish n2 | link n2              the link ends, noticed or not; it comes back
link n2 generation=7 phase=COMMITTED release=7.1.0    and says so
restart                                   the orchestrator dies and comes back
backup | restore                          its store is copied; it dies and comes back with that copy
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from datetime import timedelta

from orchestrator.core import differences, operations, views
from orchestrator.core.messages import AttemptRef, NodeStatus
from orchestrator.core.model import Change, Maintenance, Problem
from orchestrator.core.phases import Phase, Verdict
from orchestrator.core.planner import plan
from orchestrator.core.policy import FleetPolicy
from orchestrator.errors import LiverollError, Retry
from tests.scenarios.agent import Agent, Faults
from tests.scenarios.specs import amount, duration, spec
from tests.scenarios.world import ARTIFACT, OLD, START, World, told

WHO = "alice"
LONG = timedelta(hours=6)
BY_HAND = {"prepared": "Undo it with `luoctl cancel`.", "updated": "End it with `luoctl finish`."}
"""LUO's state → what ends it."""


class Script:
    """Executes one command after the other in one world."""

    def __init__(self) -> None:
        self.world = World()
        self.commands: Mapping[str, Callable[[list[str], dict[str, str]], None]] = {
            name.removeprefix("do_").replace("_", "-"): getattr(self, name)
            for name in dir(self)
            if name.startswith("do_")
        }

    def execute(self, line: str) -> list[str]:
        """What the command printed; an error that an operator would see is printed too."""
        name, *rest = shlex.split(line)
        words = dict(word.split("=", 1) for word in rest if "=" in word)
        names = [word for word in rest if "=" not in word]
        if name not in self.commands:
            raise ValueError(f"there is no command {name}: {', '.join(sorted(self.commands))}")
        w = self.world
        w.story = []
        try:
            self.commands[name](names, words)
        except LiverollError as error:
            w.say("error", f"{error.reason}: {error.message}. {error.remedy}")
            for v in getattr(error, "violations", ()):
                w.story.append(f"        {v.path}: {v.problem}. {v.remedy}")
        w.tell_walks()
        living, again = w.plan(), _plan_of(w)
        assert living == again, f"after {line!r} the rows alone give another plan: {again}, not {living}"
        return w.story

    # --- the fleet -------------------------------------------------------------------

    def do_fleet(self, names: list[str], words: dict[str, str]) -> None:
        zones, models = words.get("zones", "a"), words.get("models", "m1").split(",")
        for i in range(int(words["nodes"])):
            self._enrol(f"n{i}", zones[i % len(zones)], models[i % len(models)], words)
        self.world.story = [f"{len(self.world.agents)} nodes linked"]

    def do_enrol(self, names: list[str], words: dict[str, str]) -> None:
        for name in names:
            self._enrol(name, words.get("zone", "a"), words.get("model", "m1"), words)

    def _enrol(self, node_id: str, zone: str, model: str, words: Mapping[str, str]) -> None:
        staged = frozenset() if words.get("staged") == "no" else frozenset({ARTIFACT.digest})
        w = self.world
        release = words.get("release", OLD)
        agent = Agent(node_id, release, model, {"zone": zone}, w.now - timedelta(days=1), staged)
        w.agents[node_id] = agent
        w.link(agent)
        w.talk(agent)

    def do_policy(self, names: list[str], words: dict[str, str]) -> None:
        w = self.world
        w.policy = FleetPolicy(
            max_unavailable=amount(words["unavailable"]) if "unavailable" in words else None,
            max_in_blackout=amount(words["blackout"]) if "blackout" in words else None,
        )
        w.fleet, w.checker = w.rebuilt(), w._checker()

    def do_agent(self, names: list[str], words: dict[str, str]) -> None:
        node_id, *flags = names
        faults = Faults(
            stop_at=words.get("stop_at", ""),
            fail_at=words.get("fail_at", ""),
            retry=Retry(words.get("retry", "REPLAN")),
            times=int(words.get("times", "1")),
            jump=words.get("jump", ""),
            unhealthy="unhealthy" in flags,
            deaf="deaf" in flags,
            blackout=duration(words.get("blackout", "300ms")),
        )
        agent = self.world.agents[node_id]
        agent.faults, agent.healthy = faults, "sick" not in flags

    def do_hand(self, names: list[str], words: dict[str, str]) -> None:
        """Somebody drives a node's LUO into a state; into normal: it is as an attempt wants it. The node's
        next heartbeat comes at once."""
        node_id, state = names
        problem = Problem("LUO_NOT_NORMAL", Retry.FIX_STATE, f"LUO is {state}", BY_HAND.get(state, ""))
        agent = self.world.agents[node_id]
        agent.not_ready = problem if problem.remedy else None
        self.world.talk(agent)

    def do_cut(self, names: list[str], words: dict[str, str]) -> None:
        for name in names:
            self.world.agents[name].reachable = False
            self.world.cut(self.world.agents[name], noticed=True)

    def do_vanish(self, names: list[str], words: dict[str, str]) -> None:
        for name in names:
            self.world.agents[name].reachable = False
            self.world.cut(self.world.agents[name], noticed=False)

    def do_link(self, names: list[str], words: dict[str, str]) -> None:
        """With generation=, phase=, incarnation= and release=: what the Hello claims to have happened."""
        for name in names:
            agent = self.world.agents[name]
            claims: dict[str, object] = {}
            if "generation" in words:
                generation = int(words["generation"])
                agent.highest = generation
                agent.ref = AttemptRef(name, generation, words.get("incarnation", "inc-1"))
                agent.memory = None
                agent.phase = Phase(words.get("phase", "COMMITTED"))
                claims["status"] = NodeStatus(agent.ref, agent.phase)
            if "release" in words:
                agent.boot, agent.boot_at, agent.release = agent.boot + 1, self.world.now, words["release"]
                agent.verdict = Verdict.LIVE_UPDATED
            agent.reachable = True
            if self.world.link(agent, **claims):
                self.world.talk(agent)

    def do_power_cycle(self, names: list[str], words: dict[str, str]) -> None:
        """A node between its kernels boots cold, into what is its default."""
        for name in names:
            agent = self.world.agents[name]
            agent.faults.jump, agent.reachable = "power", True
            agent.step(self.world.now)

    def do_reinstall(self, names: list[str], words: dict[str, str]) -> None:
        """Somebody boots another kernel by hand."""
        for name in names:
            agent = self.world.agents[name]
            self.world.cut(agent, noticed=True)
            agent.boot, agent.boot_at, agent.release = agent.boot + 1, self.world.now, words["release"]
            self.world.link(agent)
            self.world.talk(agent)

    def do_restart(self, names: list[str], words: dict[str, str]) -> None:
        self.world.restart()
        self.world.say("restart", "links are unknown until their nodes say Hello")

    def do_backup(self, names: list[str], words: dict[str, str]) -> None:
        self.world.backup()

    def do_restore(self, names: list[str], words: dict[str, str]) -> None:
        self.world.restore()
        self.world.say("restore", "the store is as it was at the backup, and links are unknown")

    # --- time ------------------------------------------------------------------------

    def do_run(self, names: list[str], words: dict[str, str]) -> None:
        w = self.world
        phases = {node_id: Phase(phase) for node_id, phase in words.items()}
        if names and names[0] in w.fleet.rollouts:
            w.run(w.now + LONG, ended=names[0])
        else:
            w.run(w.now + (duration(names[0]) if names else LONG), phases)
        w.tell_walks()
        self.show()

    def do_turn(self, names: list[str], words: dict[str, str]) -> None:
        for _ in range(int(names[0]) if names else 1):
            self.world.turn()
            self.world.now += timedelta(seconds=1)

    def do_plan(self, names: list[str], words: dict[str, str]) -> None:
        self.world.settle()
        self.show()

    def do_wait(self, names: list[str], words: dict[str, str]) -> None:
        w = self.world
        until = w.now + duration(names[0])
        while w.now < until:
            w.now = min(until, w.now + timedelta(seconds=5))
            for agent in w.agents.values():
                w.talk(agent)

    # --- looking ---------------------------------------------------------------------

    def do_show(self, names: list[str], words: dict[str, str]) -> None:
        self.show(*names)

    def show(self, only: str = "") -> None:
        w = self.world
        made = w.plan()
        for rollout_id in sorted(w.fleet.rollouts):
            if only not in ("", rollout_id):
                continue
            view = views.rollout_view(w.fleet, rollout_id, made, w.now)
            wave = view.waves[view.current_wave]
            budgets = ", ".join(f"{b.budget} {b.used}/{b.limit}" for b in view.budgets)
            wake = f"; wake {w.clock(view.next_wake)}" if view.ended_at is None else ""
            w.story.append(f"      = {rollout_id} {view.state}, {wave.name} is {wave.state}; {budgets}{wake}")
            w.story.append(f"        {self._members(rollout_id)}")
            for gate in view.gates:
                w.story.append(f"        gate {gate.gate}, wave {gate.wave}: {gate.result}, {gate.evidence}")
            for b in view.blockers:
                until = f" (until {w.clock(b.until)})" if b.until is not None else ""
                nodes = f" {','.join(b.nodes)}" if b.nodes else ""
                remedy = f" » {b.remedy}" if b.remedy else ""
                w.story.append(f"      ! {b.reason}{nodes}: {b.message}{until}{remedy}")

    def _members(self, rollout_id: str) -> str:
        fleet = self.world.fleet
        by_word: dict[str, list[str]] = {}
        for node_id, member in sorted(fleet.members(rollout_id).items()):
            newest = fleet.attempts.get((node_id, member.generation))
            phase = f"/{newest.phase}" if newest is not None else ""
            by_word.setdefault(f"{member.outcome}{phase}", []).append(node_id)
        return "; ".join(f"{','.join(nodes)} {word}" for word, nodes in by_word.items())

    def do_why(self, names: list[str], words: dict[str, str]) -> None:
        w = self.world
        found = views.explain(w.fleet, names[0], names[1] if len(names) > 1 else "", w.plan(), w.now)
        w.story.append(f"      ? {found.summary}")
        w.story.extend(f"        {b.reason}: {b.message}" for b in found.blockers)

    # --- operators -------------------------------------------------------------------

    def _call(self, change: Change) -> None:
        self.world.commit(change)
        for event in change.events:
            self.world.say("operator", told(event))
        if not change.writes:
            self.world.say("operator", "nothing changes")

    def do_create(self, names: list[str], words: dict[str, str]) -> None:
        w = self.world
        made = operations.create(w.fleet, spec(names[0], words, START), ARTIFACT, WHO, w.now)
        self._call(made.change)
        for wave in views.rollout_view(w.fleet, names[0], None, w.now).waves:
            w.story.append(f"        {wave.name}: {', '.join(wave.nodes)}")

    def do_pause(self, names: list[str], words: dict[str, str]) -> None:
        self._call(operations.pause(self.world.fleet, names[0], " ".join(names[1:]), WHO, self.world.now))

    def do_resume(self, names: list[str], words: dict[str, str]) -> None:
        clear = "clear-halt" in names
        self._call(operations.resume(self.world.fleet, names[0], "", clear, WHO, self.world.now))

    def do_approve(self, names: list[str], words: dict[str, str]) -> None:
        wave = names[1] if len(names) > 1 else ""
        self._call(operations.approve(self.world.fleet, names[0], wave, "", WHO, self.world.now))

    def do_cancel(self, names: list[str], words: dict[str, str]) -> None:
        back = "roll-back" in names
        self._call(operations.cancel(self.world.fleet, names[0], "", back, WHO, self.world.now))

    def do_rollback(self, names: list[str], words: dict[str, str]) -> None:
        self._call(operations.roll_back(self.world.fleet, names[0], "", WHO, self.world.now))

    def do_retry(self, names: list[str], words: dict[str, str]) -> None:
        f, now = self.world.fleet, self.world.now
        self._call(operations.retry_nodes(f, names[0], names[1:], "", WHO, now).change)

    def do_exclude(self, names: list[str], words: dict[str, str]) -> None:
        f, now = self.world.fleet, self.world.now
        self._call(operations.exclude_nodes(f, names[0], names[1:], "", WHO, now).change)

    def do_commit(self, names: list[str], words: dict[str, str]) -> None:
        f, now = self.world.fleet, self.world.now
        self._call(operations.commit_nodes(f, names[0], names[1:], "", WHO, now).change)

    def do_write_off(self, names: list[str], words: dict[str, str]) -> None:
        f, now = self.world.fleet, self.world.now
        self._call(operations.write_off(f, names[:1], " ".join(names[1:]), WHO, now).change)

    def do_maintenance(self, names: list[str], words: dict[str, str]) -> None:
        f, now = self.world.fleet, self.world.now
        what = Maintenance(WHO, " ".join(names[1:])) if len(names) > 1 else None
        self._call(operations.set_maintenance(f, names[:1], what, WHO, now).change)

    def do_stop(self, names: list[str], words: dict[str, str]) -> None:
        self._call(operations.fleet_stop(self.world.fleet, True, " ".join(names), WHO, self.world.now))

    def do_release(self, names: list[str], words: dict[str, str]) -> None:
        self._call(operations.fleet_stop(self.world.fleet, False, " ".join(names), WHO, self.world.now))

    def do_accept(self, names: list[str], words: dict[str, str]) -> None:
        """Release over the differences."""
        f, now = self.world.fleet, self.world.now
        self._call(operations.fleet_stop(f, False, " ".join(names), WHO, now, accept_differences=True))

    def do_differences(self, names: list[str], words: dict[str, str]) -> None:
        f = self.world.fleet
        for d in differences.differences(f):
            remedy = f" » {d.remedy}" if d.remedy else ""
            self.world.story.append(f"      ~ {d.node_id} {d.outlook}: {d.message}{remedy}")
        missing = list(differences.unheard(f, self.world.now))
        self.world.story.append(f"      ~ unheard: {','.join(missing) or 'nobody'}")


def _plan_of(w: World) -> object:
    """What a fleet built from the rows would do."""
    return plan(w.oracle(), w.now)
