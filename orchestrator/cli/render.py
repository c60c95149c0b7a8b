"""How a rollout looks: pure functions from protos to rich renderables. Nodes: render_nodes.py.

Text is never parsed as markup, since much of it comes from nodes. The instant `now` is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from liveroll.v1 import common_pb2
from liveroll.v1 import rollout_pb2 as pb
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.cli import friendly
from orchestrator.cli.render_nodes import in_flight

STATE_STYLES: Mapping[str, str] = {
    "PENDING": "dim",
    "RUNNING": "cyan",
    "PAUSED": "yellow",
    "HALTED": "bold red",
    "CANCELLING": "magenta",
    "CANCELLED": "magenta",
    "ROLLING_BACK": "magenta",
    "ROLLED_BACK": "magenta",
    "SUCCEEDED": "bold green",
    "FAILED": "bold red",
}
BAR_WIDTH = 24
DOMAIN = "domain:"
DOMAINS_SHOWN = 8
FEW = 6
"""Names shown of a long list of nodes."""


def state_of(rollout: pb.Rollout) -> str:
    """RUNNING, HALTED, …"""
    return pb.RolloutState.Name(rollout.state).removeprefix("ROLLOUT_STATE_")


def rollout_view(rollout: pb.Rollout, nodes: Iterable[pb.Node], now: datetime) -> RenderableType:
    """Everything about one rollout: what `get` prints and `watch` keeps in place."""
    parts: list[RenderableType] = [headline(rollout, now), "", waves_table(rollout)]
    flying = in_flight(nodes)
    if flying is not None:
        parts += ["", flying]
    waits = why(rollout.blockers, now)
    if waits is not None:
        parts += ["", waits]
    if nodes_are_back(rollout):
        parts.append(Text("  the nodes are back already; rollback or cancel only ends it", "italic"))
    parts += ["", figures(rollout)]
    verdicts = gates(rollout.gates)
    if verdicts is not None:
        parts += ["", verdicts]
    if rollout.uncommitted:
        parts += [
            "",
            Text(
                f"updated, not committed: {few(rollout.uncommitted)}; "
                f"`liveroll commit {rollout.rollout_id}` or `liveroll rollback {rollout.rollout_id}`"
            ),
        ]
    return Group(*parts)


def nodes_are_back(rollout: pb.Rollout) -> bool:
    """Whether a halted rollout has nothing left to bring back: whatever it had touched is as before."""
    if state_of(rollout) != "HALTED" or rollout.uncommitted:
        return False
    waves = rollout.waves
    return any(w.rolled_back for w in waves) and not any(
        w.updated or w.baking or w.in_progress or w.failed for w in waves
    )


def headline(rollout: pb.Rollout, now: datetime) -> Text:
    """Name, state, target, since when; and what holds it."""
    state = state_of(rollout)
    line = Text.assemble(
        (rollout.rollout_id, "bold"),
        "  ",
        (state, STATE_STYLES.get(state, "")),
        f"  to {rollout.target_release or rollout.spec.target.artifact}",
        f"  {rollout.members} nodes",
    )
    begun = rollout.start_time if rollout.HasField("start_time") else rollout.create_time
    end = rollout.end_time.ToDatetime(UTC) if rollout.HasField("end_time") else now
    took = friendly.duration(max(end - begun.ToDatetime(UTC), end - end))
    line.append(f"  {'took' if rollout.HasField('end_time') else 'for'} {took}", "dim")
    if rollout.paused:
        line.append(f"\npaused: {rollout.pause_reason or 'by an operator'}", "yellow")
    if rollout.halted:
        line.append(f"\nhalted: {rollout.halt_reason}: {rollout.halt_message}", "red")
    if rollout.fleet_stopped:
        line.append(f"\nthe fleet is stopped: {rollout.fleet_stop_reason}", "bold red")
    return line


def waves_table(rollout: pb.Rollout) -> Table:
    table = _table("wave", "state", "", "nodes", "open", "baking", "updated", "failed")
    for column in table.columns[:3]:
        column.no_wrap = True
    table.columns[2].min_width = BAR_WIDTH
    for column in table.columns[3:]:
        column.justify = "right"
    rolled_back = any(w.rolled_back for w in rollout.waves)
    left_out = any(w.left_out for w in rollout.waves)
    if rolled_back:
        table.add_column("rolled back", justify="right")
    if left_out:
        table.add_column("left out", justify="right")
    for wave in rollout.waves:
        current = wave.index == rollout.current_wave and not rollout.HasField("end_time")
        row: list[RenderableType] = [
            Text(wave.name, "bold" if current else ""),
            Text(wave.state.replace("_", " ").lower()),
            bar(wave),
            str(wave.members),
            _count(wave.in_progress, "yellow"),
            _count(wave.baking, "cyan"),
            _count(wave.updated, "green"),
            _count(wave.failed, "red"),
        ]
        if rolled_back:
            row.append(_count(wave.rolled_back, "magenta"))
        if left_out:
            row.append(_count(wave.left_out, "dim"))
        table.add_row(*row)
    return table


def bar(wave: pb.WaveStatus, width: int = BAR_WIDTH) -> Text:
    """One cell a share: updated █, baking ▓, in progress ▒, failed ✗, rolled back ◁, pending ·."""
    parts = (
        (wave.updated, "█", "green"),
        (wave.baking, "▓", "cyan"),
        (wave.in_progress, "▒", "yellow"),
        (wave.failed, "✗", "red"),
        (wave.rolled_back, "◁", "magenta"),
        (wave.left_out, " ", ""),
    )
    members = max(wave.members, 1)
    cells = [max(1, count * width // members) if count else 0 for count, _, _ in parts]
    while sum(cells) > width:  # whatever there is at least one of is seen, at the largest's cost
        cells[cells.index(max(cells))] -= 1
    if sum(count for count, _, _ in parts) >= members:
        cells[cells.index(max(cells))] += width - sum(cells)
    drawn = Text()
    for (_, sign, style), share in zip(parts, cells, strict=True):
        drawn.append(sign * share, style)
    return drawn.append("·" * (width - sum(cells)), "dim")


def figures(rollout: pb.Rollout) -> Text:
    """Blackouts, memory, retries and budgets, a line each."""
    lines = [blackout(rollout.blackout), *vantages(rollout.blackout)]
    checked = rollout.memory_checks_passed + rollout.memory_checks_failed
    memory = f"memory    {rollout.memory_checks_passed} of {checked} checks passed"
    lines.append(Text(memory, "red" if rollout.memory_checks_failed else ""))
    if rollout.retries:
        lines.append(Text(f"retries   {rollout.retries}"))
    lines += budgets(rollout.budgets)
    return Text("\n").join(lines)


def budgets(uses: Sequence[pb.BudgetUse], *, planned: bool = False) -> list[Text]:
    """A line of the rollout's own, and one of the failure domains, the fullest first."""
    own = [use for use in uses if not use.budget.startswith(DOMAIN)]
    domains = [use for use in uses if use.budget.startswith(DOMAIN)]
    domains.sort(key=lambda use: (use.limit - use.used, use.budget))
    lines = []
    for title, shown in (("budgets", own), ("domains", domains[:DOMAINS_SHOWN])):
        if not shown:
            continue
        line = Text(f"{title:<10}")
        for i, use in enumerate(shown):
            full = use.used >= use.limit and use.used > 0
            figure = str(use.limit) if planned else f"{use.used}/{use.limit}"
            line.append(" · " if i else "")
            line.append(f"{use.budget.removeprefix(DOMAIN)} {figure}", "yellow" if full else "")
        if title == "domains" and len(domains) > DOMAINS_SHOWN:
            line.append(f" · {len(domains) - DOMAINS_SHOWN} more", "dim")
        lines.append(line)
    return lines


def blackout(summary: pb.BlackoutSummary) -> Text:
    line = Text("blackout  ")
    if summary.samples:
        for name in ("p50", "p99", "max"):
            line.append(f"{name} {friendly.duration(getattr(summary, name).ToTimedelta())}  ")
        line.append(f"over {summary.samples} samples")
    else:
        line.append("no samples yet")
    if summary.rejected:
        line.append(f", {summary.rejected} rejected", "yellow")
    if summary.open:
        line.append(f", {summary.open} open now", "yellow")
    if summary.emulated:
        line.append(" (emulated)", "dim")
    return line


def vantages(summary: pb.BlackoutSummary) -> list[Text]:
    """A line of each vantage point, where more than one saw something."""
    if len(summary.vantages) < 2:
        return []
    lines = []
    for seen in summary.vantages:
        name = common_pb2.BlackoutSample.Vantage.Name(seen.vantage).removeprefix("VANTAGE_").lower()
        line = Text(f" {name:<9}", "dim")
        if seen.samples:
            for figure in ("p50", "p99", "max"):
                line.append(f"{figure} {friendly.duration(getattr(seen, figure).ToTimedelta())}  ")
            line.append(f"± {friendly.duration(seen.uncertainty.ToTimedelta())} at most")
        else:
            line.append("no samples of use")
        if seen.rejected:
            line.append(f", {seen.rejected} rejected")
        lines.append(line)
    return lines


def why(blockers: Sequence[pb.Blocker], now: datetime) -> RenderableType | None:
    """Why it waits: what stands in the way, who must do what."""
    if not blockers:
        return None
    text = Text("waits for", "bold")
    for blocker in blockers:
        text.append("\n  ")
        text.append(blocker.reason, "yellow")
        text.append(f"  {blocker.message}")
        if blocker.wave and blocker.wave not in blocker.message.split():
            text.append(f", before wave {blocker.wave}")
        if blocker.node_count:
            text.append(f" ({nodes_named(blocker.nodes, blocker.node_count)})", "dim")
        if blocker.HasField("until"):
            left = blocker.until.ToDatetime(UTC) - now
            if left.total_seconds() > 0:
                text.append(f", for {friendly.duration(left)} at most", "dim")
        if blocker.remedy:
            text.append(f"\n      {blocker.remedy}", "italic")
    return text


def gates(verdicts: Sequence[pb.GateVerdict]) -> Table | None:
    if not verdicts:
        return None
    styles = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow", "ERROR": "red"}
    table = _table("gate", "wave", "verdict", "evidence")
    for verdict in verdicts:
        result = pb.GateResult.Name(verdict.result).removeprefix("GATE_RESULT_")
        table.add_row(
            Text(verdict.gate),
            Text(verdict.wave),
            Text(result, styles.get(result, "")),
            Text(verdict.evidence),
        )
    return table


def rollouts_table(rollouts: Sequence[pb.Rollout], now: datetime) -> RenderableType:
    """What `list` prints."""
    if not rollouts:
        return Text("no rollouts")
    table = _table("rollout", "state", "target", "nodes", "updated", "failed", "created", "by")
    for rollout in rollouts:
        state = state_of(rollout)
        age = friendly.duration(max(now - rollout.create_time.ToDatetime(UTC), now - now))
        table.add_row(
            Text(rollout.rollout_id, "bold"),
            Text(state, STATE_STYLES.get(state, "")),
            Text(rollout.target_release),
            str(rollout.members),
            _count(sum(w.updated + w.baking for w in rollout.waves), "green"),
            _count(sum(w.failed for w in rollout.waves), "red"),
            Text(f"{age} ago"),
            Text(rollout.created_by),
        )
    return table


def plan_view(plan: pb.RolloutPlan) -> RenderableType:
    """What `plan` prints."""
    digest = plan.artifact_digest[:16]
    parts: list[RenderableType] = [
        Text.assemble(f"{plan.members} nodes to ", (plan.target_release, "bold"), f"  (artifact {digest}…)")
    ]
    waves = _table("wave", "nodes", "which")
    for wave in plan.waves:
        waves.add_row(Text(wave.name), str(len(wave.nodes)), Text(few(wave.nodes)))
    parts += ["", waves]
    if plan.pairs:
        pairs = _table("from", "to", "hardware", "nodes", "canary")
        for pair in plan.pairs:
            pairs.add_row(
                Text(pair.from_release),
                Text(pair.to_release),
                Text(pair.hardware_model),
                str(pair.nodes),
                Text(pair.canary or "waits its turn"),
            )
        parts += ["", pairs]
    if plan.budgets:
        parts += ["", *budgets(plan.budgets, planned=True)]
    for line in plan.command_lines:
        shown = line.command_line or "(empty)"
        parts.append(Text(f"command line of {line.nodes} nodes, e.g. {line.example_node}: {shown}", "dim"))
    if plan.skipped:
        parts += ["", skipped_table(plan.skipped)]
    parts += [Text(f"warning: {warning}", "yellow") for warning in plan.warnings]
    parts += ["", Text("nothing was created; `liveroll create` begins it", "dim")]
    return Group(*parts)


def skipped_table(skipped: Sequence[pb.SkippedNode]) -> Table:
    """Grouped by reason: a fleet has thousands of nodes and a handful of reasons."""
    table = _table("left out", "nodes", "why", "which")
    groups: dict[tuple[bool, str], list[pb.SkippedNode]] = {}
    for node in skipped:
        groups.setdefault((node.waits, node.reason), []).append(node)
    for (waits, reason), nodes in sorted(groups.items()):
        table.add_row(
            Text(f"{reason}{' (waits)' if waits else ''}"),
            str(len(nodes)),
            Text(nodes[0].message),
            Text(few([n.node_id for n in nodes])),
        )
    return table


def explanation(answer: pb.ExplainResponse, now: datetime) -> RenderableType:
    """What `why` prints."""
    parts: list[RenderableType] = [Text(answer.summary, "bold")]
    waits = why(answer.blockers, now)
    if waits is not None:
        parts.append(waits)
    verdicts = gates(answer.gates)
    if verdicts is not None:
        parts += ["", verdicts]
    if answer.HasField("next_wake"):
        left = answer.next_wake.ToDatetime(UTC) - now
        if left.total_seconds() > 0:
            parts.append(Text(f"looks again by itself in {friendly.duration(left)}", "dim"))
    return Group(*parts)


def few(names: Sequence[str]) -> str:
    """a, b, c and 4 more"""
    shown = ", ".join(names[:FEW])
    return f"{shown} and {len(names) - FEW} more" if len(names) > FEW else shown


def nodes_named(names: Sequence[str], count: int) -> str:
    """A sample of `count` nodes."""
    shown = ", ".join(names[:FEW])
    more = count - len(names[:FEW])
    if not shown:
        return f"{count} node{'s' if count != 1 else ''}"
    return f"{shown} and {more} more" if more > 0 else shown


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _count(count: int, style: str) -> Text:
    return Text(str(count) if count else "–", style if count else "dim")
