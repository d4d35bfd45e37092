"""A program that writes to etcd all the time, and knows what was acknowledged and how long it had to wait."""

from __future__ import annotations

import base64
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from lab.k3s_sim.node.etcd_client import EtcdClient, EtcdError, EtcdTls

PREFIX = "/writer/"
PAUSE_S = 0.01
PATIENCE_S = 1.0


@dataclass
class Writer:
    """Writes numbered keys through whichever endpoint answers; a write that fails is repeated."""

    endpoints: Sequence[str]
    tls: EtcdTls
    acknowledged: list[tuple[int, float]] = field(default_factory=list)
    """Numbers, and when each was acknowledged (monotonic seconds)."""
    failures: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        number, order = 0, list(self.endpoints)
        client = EtcdClient(order, self.tls)
        while not self._stop.wait(PAUSE_S):
            try:
                client.call("/v3/kv/put", {"key": _b64(f"{PREFIX}{number:08d}"), "value": ""}, PATIENCE_S)
            except EtcdError:
                self.failures += 1
                client.close()
                order.append(order.pop(0))
                client = EtcdClient(order, self.tls)
                continue
            self.acknowledged.append((number, time.monotonic()))
            number += 1
        client.close()

    def longest_gap(self, since: float = 0.0, until: float = float("inf")) -> float:
        """Seconds between two acknowledgements, at most."""
        times = [at for _, at in self.acknowledged if since <= at <= until]
        return max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0)

    def lost(self) -> set[int]:
        """What was acknowledged and is not there."""
        client = EtcdClient(self.endpoints, self.tls)
        found, _ = client.get_prefix(PREFIX)
        client.close()
        return {number for number, _ in self.acknowledged} - {
            int(one.key.removeprefix(PREFIX)) for one in found
        }

    @contextmanager
    def writing(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(30.0)


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
