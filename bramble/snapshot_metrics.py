"""Snapshots of etcd for Prometheus: an alert on their age needs no other tool."""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily

from fleet.snapshots.desk import SnapshotDesk


def snapshots(desk: SnapshotDesk) -> Iterable[GaugeMetricFamily]:
    """What is kept now. Reads the manifests: as many small files as there are snapshots."""
    health = desk.health()
    if health.newest_at is not None:
        yield GaugeMetricFamily(
            "bramble_snapshot_age_seconds",
            "Age of the newest snapshot of etcd; absent while there is none.",
            value=max(0.0, time.time() - health.newest_at),
        )
    yield GaugeMetricFamily("bramble_snapshots", "Snapshots of etcd that are kept.", value=health.count)
    yield GaugeMetricFamily("bramble_snapshot_bytes", "Room that they take.", value=health.total_bytes)
    yield GaugeMetricFamily(
        "bramble_snapshot_problem",
        "1 while none can be taken, or the newest one is older than twice policy.snapshots.every.",
        value=int(bool(health.problem)),
    )
