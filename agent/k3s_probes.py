"""What k3s says of itself on the loopback address: the kubelet's health, how long etcd waits for its disk.

Only while k3s runs, and once a minute. Plain HTTP without credentials: both ports serve this machine only.
Sources: k3s documentation, "requirements" (10248 kubelet health, 2381 etcd metrics); etcd documentation,
"metrics" (`etcd_disk_wal_fsync_duration_seconds`).
"""

from __future__ import annotations

import http.client
import re
import socket

KUBELET_PORT = 10248
ETCD_METRICS_PORT = 2381
TIMEOUT_S = 3.0
MAX_METRICS_BYTES = 1 << 20
QUANTILE = 0.99
MIN_FSYNCS = 20
_BUCKET = re.compile(
    rb'^etcd_disk_wal_fsync_duration_seconds_bucket\{le="([0-9.e+-]+|\+Inf)"\} ([0-9.e+]+)$', re.MULTILINE
)

Buckets = dict[float, float]
"""Upper bound in seconds → how many fsyncs took no longer, since etcd started."""


def parse_fsync_buckets(metrics: bytes) -> Buckets:
    """The histogram from etcd's /metrics; empty where it is not there."""
    return {float(bound): float(count) for bound, count in _BUCKET.findall(metrics)}


def quantile_between(before: Buckets, after: Buckets, quantile: float = QUANTILE) -> float | None:
    """A quantile of what was observed between two scrapes, in seconds; linear within its bucket.

    In the last bucket the bound below counts: no more is known. None where there was too little, or where
    etcd started anew in between.
    """
    bounds = sorted(after)
    counts = [after[bound] - before.get(bound, 0.0) for bound in bounds]
    if not counts or counts[-1] < MIN_FSYNCS or any(count < 0 for count in counts):
        return None
    rank = quantile * counts[-1]
    lower, below = 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=True):
        if count >= rank:
            if bound == float("inf"):
                return lower
            return lower + (bound - lower) * (rank - below) / (count - below) if count > below else bound
        lower, below = bound, count
    return lower


class K3sProbes:
    """Asks, and remembers the histogram of the time before."""

    def __init__(self, kubelet_port: int = KUBELET_PORT, etcd_port: int = ETCD_METRICS_PORT) -> None:
        self._kubelet_port = kubelet_port
        self._etcd_port = etcd_port
        self._buckets: Buckets = {}

    def kubelet_healthy(self) -> bool | None:
        """None where nobody listens: whether the node is Ready is for the cluster to say."""
        answer = _get(self._kubelet_port, "/healthz", 256)
        return None if answer is None else answer[0] == 200

    def etcd_fsync_p99_s(self) -> float | None:
        """Since the call before; None at the first one and where etcd does not run here."""
        answer = _get(self._etcd_port, "/metrics", MAX_METRICS_BYTES)
        buckets = parse_fsync_buckets(answer[1]) if answer is not None and answer[0] == 200 else {}
        before, self._buckets = self._buckets, buckets
        return quantile_between(before, buckets) if before else None


def _get(port: int, path: str, limit: int) -> tuple[int, bytes] | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        # Connected here, to bytes: see `agent.client` for why.
        connection.sock = socket.create_connection((b"127.0.0.1", port), TIMEOUT_S)  # type: ignore[arg-type]
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(limit)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
