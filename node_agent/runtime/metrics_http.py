"""The agent's /metrics and /healthz over HTTP, started after the first Hello.

Imports aiohttp and prometheus-client (about 0.3 s): never on the way to the first Hello.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from node_agent.errors import SettingsError
from node_agent.runtime.metrics import Histogram, Meter
from node_agent.settings import split_address


class MeterCollector(Collector):
    """A Meter as Prometheus metrics, made at each scrape."""

    def __init__(self, meter: Meter, version: str) -> None:
        self._meter = meter
        self._version = version

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        meter = self._meter
        info = GaugeMetricFamily("liveroll_agent_build_info", "This agent, always 1", labels=["version"])
        info.add_metric([self._version], 1)
        yield info
        phase = GaugeMetricFamily("liveroll_agent_nodes", "Nodes of this process by phase", labels=["phase"])
        for name, count in meter.phase_counts().items():
            phase.add_metric([name.value], count)
        yield phase
        yield GaugeMetricFamily(
            "liveroll_agent_unhealthy_nodes",
            "Nodes of this process that fail their probes",
            len(meter.unhealthy),
        )
        yield GaugeMetricFamily(
            "liveroll_agent_links_up", "Links to the orchestrator that are up", len(meter.links_up)
        )
        yield CounterMetricFamily("liveroll_agent_link_connects", "Links that were welcomed", meter.connects)
        yield _counter("liveroll_agent_link_failures", "Links that broke", "reason", meter.link_failures)
        attempts = CounterMetricFamily(
            "liveroll_agent_attempts", "Attempts that settled", labels=["result", "reason"]
        )
        for (result, reason), count in sorted(meter.attempts.items()):
            attempts.add_metric([result, reason], count)
        yield attempts
        yield _counter("liveroll_agent_boot_verdicts", "Boots by kind", "verdict", meter.verdicts)
        yield _counter("liveroll_agent_commands_refused", "Commands not followed", "reason", meter.refusals)
        yield _counter(
            "liveroll_agent_memory_checks",
            "Workloads whose memory was compared",
            "result",
            meter.memory_checks,
        )
        yield _histogram(
            "liveroll_blackout_seconds",
            "How long workloads stood still",
            ("vantage",),
            (((vantage,), histogram) for vantage, histogram in meter.blackout.items()),
        )
        yield _histogram(
            "liveroll_blackout_phase_seconds",
            "Parts of the blackout",
            ("phase", "source"),
            meter.blackout_phase.items(),
        )
        yield _histogram("liveroll_brownout_seconds", "Workloads ran degraded", (), [((), meter.brownout)])
        yield CounterMetricFamily(
            "liveroll_agent_blackout_samples_rejected", "Samples that a clock spoilt", meter.rejected_samples
        )
        yield _histogram(
            "liveroll_agent_journal_append_seconds", "Until a record was durable", (), [((), meter.fsync)]
        )
        yield CounterMetricFamily(
            "liveroll_agent_artifact_fetched_bytes", "Artifact bytes fetched", meter.artifact_bytes
        )


def _counter(name: str, text: str, label: str, counts: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family


def _histogram(
    name: str, text: str, labels: tuple[str, ...], rows: Iterable[tuple[Sequence[str], Histogram]]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, histogram in rows:
        family.add_metric(values, histogram.cumulative(), histogram.total)
    return family


@asynccontextmanager
async def serve(meter: Meter, listen: str, version: str) -> AsyncIterator[str]:
    """Serve until the context is left; yields the bound host:port.

    Raises:
        SettingsError: the address cannot be bound.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(MeterCollector(meter, version))

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", healthz)
    host, port = split_address(listen)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise SettingsError(
                f"cannot serve metrics on {listen}: {error.strerror}",
                reason="PORT_IN_USE",
                remedy="choose another metrics.listen, or end what listens there",
            ) from error
        bound = runner.addresses[0]
        yield f"{bound[0]}:{bound[1]}"
    finally:
        await runner.cleanup()
