"""The health of declared nodes for Prometheus.

Labels are from fixed lists: names of nodes stand in cluster.yaml, conditions in `fleet.health.conditions`.
A condition has a series while it holds, so a thousand sound nodes cost a thousand series of each reading and
no more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from prometheus_client.core import GaugeMetricFamily

from fleet.health.conditions import Condition
from fleet.health.desk import Held, held_by_all
from fleet.store.database import Store
from fleet.store.records import NodeRecord

READINGS: Final[Mapping[str, tuple[str, str]]] = {
    "temperature_c": ("temperature_celsius", "Temperature of a node's SoC."),
    "storage_wear_percent": (
        "storage_wear_percent",
        "Part of the rated life that a node's worst disk has used.",
    ),
    "root_free_bytes": ("root_free_bytes", "Room on a node's root filesystem."),
    "memory_available_bytes": ("memory_available_bytes", "Memory that a node has to spare."),
    "etcd_fsync_p99_s": ("etcd_fsync_p99_seconds", "99th percentile of etcd's fsync on a server."),
    "clock_behind_s": ("clock_behind_seconds", "How far a node's clock is behind the control server's."),
    "agent_rss_bytes": ("agent_resident_bytes", "Resident memory of a node's agent."),
    "agent_cpu_s": ("agent_cpu_seconds", "CPU time of a node's agent and its commands since it started."),
}
"""Field of the report → name (behind `bramble_node_`) and help."""


def node_health(store: Store) -> Iterable[GaugeMetricFamily]:
    """Conditions and readings as the store has them now."""
    with store.read() as reader:
        nodes, held = reader.nodes(), held_by_all(reader)
    yield from conditions(held)
    yield from readings(nodes)


def conditions(held: Mapping[str, Iterable[Held]]) -> Iterable[GaugeMetricFamily]:
    """How many nodes have each condition, and which ones those are."""
    entries = [(name, entry) for name, entries in held.items() for entry in entries]
    counts = Counter(entry.condition for _, entry in entries)
    total = GaugeMetricFamily(
        "bramble_nodes_with_condition", "Nodes that have this condition now.", labels=["condition"]
    )
    for condition in Condition:
        total.add_metric([condition.value], counts[condition])
    yield total
    since = GaugeMetricFamily(
        "bramble_node_condition",
        "Since when a node has this condition, UTC seconds since 1970; absent where it has not.",
        labels=["node", "condition"],
    )
    for name, entry in entries:
        since.add_metric([name, entry.condition.value], entry.since)
    yield since


def readings(nodes: Iterable[NodeRecord]) -> Iterable[GaugeMetricFamily]:
    """The newest readings of every node that has told them."""
    families = {
        field: GaugeMetricFamily(f"bramble_node_{name}", text, labels=["node"])
        for field, (name, text) in READINGS.items()
    }
    stalls = GaugeMetricFamily(
        "bramble_node_pressure_percent",
        "Part of the last 10 s in which some task of a node waited for this (PSI some avg10).",
        labels=["node", "resource"],
    )
    latency = GaugeMetricFamily(
        "bramble_node_write_latency_seconds",
        "Mean time of a write to a node's slowest disk.",
        labels=["node"],
    )
    for node in nodes:
        health: Mapping[str, Any] = (node.status or {}).get("health") or {}
        for field, family in families.items():
            if health.get(field) is not None:
                family.add_metric([node.name], float(health[field]))
        for resource in ("cpu", "io", "memory"):
            if resource in (health.get("pressure_some_avg10") or {}):
                stalls.add_metric([node.name, resource], health["pressure_some_avg10"][resource])
        times = [disk.get("write_latency_ms") for disk in health.get("disks") or ()]
        known = [float(time) for time in times if time is not None]
        if known:
            latency.add_metric([node.name], max(known) / 1000)
    yield from families.values()
    yield stalls
    yield latency
