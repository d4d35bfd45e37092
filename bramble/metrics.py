"""Metrics of one `bramble serve`: the netboot server's counters, the fleet's states, the process itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from bramble.attention_metrics import attention
from bramble.health_metrics import node_health
from bramble.snapshot_metrics import snapshots
from fleet.attention import Finding
from fleet.controller import Controller
from fleet.errors import FleetError
from fleet.join.failures import FAILURES, join_failures_of
from fleet.lifecycle import State
from fleet.notify.desk import NotifyDesk
from fleet.snapshots.desk import SnapshotDesk
from fleet.store.database import Store
from pxe.metrics import PxeMetrics
from pxe.net.dns import OUTCOMES
from pxe.server import PxeServer


class Metrics:
    """Everything that is told to a collector.

    Args:
        store: whose nodes are counted by state, each time somebody asks.
    """

    def __init__(self, store: Store) -> None:
        self._registry = CollectorRegistry()
        self.pxe = PxeMetrics(self._registry)
        for read in (fleet_states, node_health):
            self._registry.register(_WhenAsked(partial(read, store)))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def watch_snapshots(self, desk: SnapshotDesk) -> None:
        """Tell how it stands with etcd's snapshots."""
        self._registry.register(_WhenAsked(partial(snapshots, desk)))

    def watch_attention(self, store: Store, found: Callable[[], tuple[Finding, ...]]) -> None:
        """Tell what needs a person."""
        self._registry.register(_WhenAsked(partial(attention, store, found)))

    def render(self) -> bytes:
        """The text exposition format, version 0.0.4."""
        return generate_latest(self._registry)


def make_metrics(store: Store, pxe: PxeServer, controller: Controller, notify: NotifyDesk) -> Metrics:
    """Metrics of the parts that are running."""
    metrics = Metrics(store)
    watch, notebook = metrics.pxe.watch, pxe.observer.doctor.notebook
    metrics.watch_snapshots(controller.snapshots)
    metrics.watch_attention(store, controller.findings)
    watch("boards_seen", "Boards that were seen since the start.", lambda: len(notebook))
    watch(
        "boot_lines_dropped", "Timeline lines that were too many to keep.", lambda: controller.boots.dropped
    )
    for name, text in (
        ("malformed", "Datagrams on the DHCP port that were no requests."),
        ("dropped", "DHCP requests that came faster than they were answered."),
        ("unsent", "DHCP replies that could not be sent."),
        ("faults", "Faults of this program while it answered DHCP."),
    ):
        watch(f"dhcp_{name}", text, partial(_number, pxe, "dhcp", name))
    for name, text in (
        ("unknown", "Console lines from addresses that are no known board's."),
        ("dropped", "Console lines that came too fast."),
    ):
        watch(f"console_{name}", text, partial(_number, pxe, "console", name))
    for name, text in (
        ("active", "TFTP transfers under way."),
        ("waiting", "TFTP requests that wait for their turn."),
        ("malformed", "Datagrams on the TFTP port that were no requests."),
        ("dropped", "TFTP requests without an answer: the queue was full."),
        ("expired", "TFTP requests that waited for longer than a client does."),
        ("broken", "Faults of this program while it answered TFTP."),
    ):
        watch(f"tftp_{name}", text, partial(_number, pxe, "tftp_counters", name))
    metrics.pxe.watch_outcomes(
        "dns_queries", "DNS queries, by what became of them.", OUTCOMES, partial(_dns_queries, pxe)
    )
    watch(
        "tftp_restarts", "TFTP workers that ended and were started again.", lambda: float(pxe.tftp_restarts)
    )
    watch("notices_waiting", "Notices to people that no channel has taken yet.", lambda: notify.waiting)
    outcomes = {"sent": notify.sent, "failed": notify.failed}
    metrics.pxe.watch_outcomes(
        "notifications",
        "Messages to people, by what became of them; one that failed is tried again.",
        list(outcomes),
        lambda outcome: float(outcomes[outcome].total()),
    )
    return metrics


def _number(pxe: PxeServer, service: str, name: str) -> float:
    """A counter of a service; 0 before it runs."""
    running = getattr(pxe, service)
    return 0.0 if running is None else float(getattr(running, name))


def _dns_queries(pxe: PxeServer, outcome: str) -> float:
    """How many queries ended so; 0 where this server answers no DNS."""
    return float(pxe.names.outcomes[outcome]) if pxe.names is not None else 0.0


class _WhenAsked(Collector):
    """Metrics that are read from the store or the disk each time somebody asks."""

    def __init__(self, read: Callable[[], Iterable[GaugeMetricFamily]]) -> None:
        self._read = read

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return ()  # else registering would read them

    def collect(self) -> Iterable[GaugeMetricFamily]:
        try:
            return tuple(self._read())
        except (FleetError, OSError):
            return ()  # what can not be read is a gap, not a fleet without nodes


def fleet_states(store: Store) -> Iterable[GaugeMetricFamily]:
    """Nodes by state, and boards that are held, as the store has them now."""
    with store.read() as reader:
        records = reader.nodes()
        states = Counter(node.state for node in records)
        failures = Counter(code for node in records for code in join_failures_of(node.status))
        held = len(reader.held_boards())
    nodes = GaugeMetricFamily("bramble_nodes", "Declared nodes, by state.", labels=["state"])
    for state in State:
        nodes.add_metric([state.value], states[state])
    yield nodes
    failing = GaugeMetricFamily(
        "bramble_join_failures", "Nodes that report what keeps k3s from joining.", labels=["class"]
    )
    for code in FAILURES:
        failing.add_metric([code], failures[code])
    yield failing
    yield GaugeMetricFamily("bramble_held_boards", "Boards that are in no cluster.yaml.", value=held)
