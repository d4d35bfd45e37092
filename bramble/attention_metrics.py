"""What needs a person, and the servers' reserve, for Prometheus: the same that `bramble status` says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client.core import GaugeMetricFamily

from fleet.attention import Finding, Urgency, quorum_in
from fleet.store.database import Store
from fleet.views import fleet_view


def attention(store: Store, found: Callable[[], tuple[Finding, ...]]) -> Iterable[GaugeMetricFamily]:
    """Findings as the server knows them, and servers as the store has them now."""
    view = fleet_view(store)
    counts = Counter(finding.urgency for finding in found())
    needs = GaugeMetricFamily(
        "bramble_findings",
        "What needs a person, by how soon; 'bramble status' lists it.",
        labels=["urgency"],
    )
    for urgency in Urgency:
        needs.add_metric([urgency.value], counts[urgency])
    yield needs
    quorum = quorum_in(view)
    servers = GaugeMetricFamily(
        "bramble_servers",
        "Servers: members of etcd, those of them that are Ready or degraded, and how many it needs.",
        labels=["standing"],
    )
    for standing in ("members", "ready", "degraded", "needed"):
        servers.add_metric([standing], getattr(quorum, standing))
    yield servers
