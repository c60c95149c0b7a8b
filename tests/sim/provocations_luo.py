"""Worlds of RFC v2's model that bring mistakes about its tokens and its one state to light."""

from __future__ import annotations

from dataclasses import replace

from node_agent.kernel.emulated.image import RFC2, SESSIONS
from tests.sim import provocations
from tests.sim.draw import Scenario


def rfc2_undisturbed(scenario: Scenario) -> Scenario:
    """The calm world, on RFC v2."""
    return replace(scenario, nodes=tuple(replace(node, luo=RFC2) for node in scenario.nodes))


def rfc2_devices(scenario: Scenario) -> Scenario:
    """The calm world, where every node has a device that writes to its first workload's memory."""
    calm = rfc2_undisturbed(scenario)
    return replace(calm, nodes=tuple(replace(node, devices=1) for node in calm.nodes))


def rfc2_dying_agents(scenario: Scenario) -> Scenario:
    """Agents are killed again and again, between any two ioctls."""
    return rfc2_undisturbed(provocations.dying_agents(scenario))


def rfc2_early_cancels(scenario: Scenario) -> Scenario:
    """People cancel all the time, while nodes wait prepared."""
    return rfc2_undisturbed(provocations.early_cancels(scenario))


def rfc2_by_hand(scenario: Scenario) -> Scenario:
    """Somebody uses LUO by hand every few seconds, and commands take their time."""
    rates = replace(scenario.rates, luo_by_hand_s=4.0, latency_s=3.0)
    return rfc2_undisturbed(replace(provocations.specs(scenario, provocations._patient), rates=rates))


def two_models(scenario: Scenario) -> Scenario:
    """Every other node is of RFC v2, and the target is there for sessions only."""
    models = (RFC2, SESSIONS)
    nodes = tuple(replace(node, luo=models[number % 2]) for number, node in enumerate(scenario.nodes))
    only = {spec.target.artifact: SESSIONS for _, spec in scenario.rollouts}
    return replace(provocations.specs(scenario, provocations._patient), nodes=nodes, only=only)
