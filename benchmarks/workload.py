"""A replicated workload that is asked all the time: which of its pods answers, and when none did.

Whoever asks knows the pods' addresses as the API lists them, as a Service would, and tries them in turn. The
k3s simulator answers in place of containers, and says so.
"""

from __future__ import annotations

import asyncio
import threading
import time
import urllib.request
from dataclasses import dataclass, field

from benchmarks.errors import BenchmarkError
from fleet.k3s.material import ClientIdentity
from fleet.kube.client import KubeApi

PORT = 8088
NAME = "web"
LABELS = {"app": NAME}
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
BUDGETS = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
EVERY_S = 0.25
ASK_TIMEOUT_S = 3.0


@dataclass
class Workload:
    """Two pods, one on each node, of which one may be missing.

    Attributes:
        answered: node → how many answers came from there, since `reset`.
        longest_gap_s: Between two answers of any of them, since `reset`.
    """

    url: str
    identity: ClientIdentity
    answered: dict[str, int] = field(default_factory=dict)
    longest_gap_s: float = 0.0
    asked: int = 0
    _addresses: tuple[str, ...] = ()
    _last: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def deploy(self, replicas: int) -> None:
        """Make the Deployment and its disruption budget, as an administrator."""
        asyncio.run(self._deploy(replicas))

    async def _deploy(self, replicas: int) -> None:
        ports = [{"containerPort": 80, "hostPort": PORT}]
        spec = {"containers": [{"name": NAME, "image": "none", "ports": ports}]}
        template = {"metadata": {"labels": LABELS}, "spec": spec}
        selector = {"matchLabels": LABELS}
        deployment = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": NAME},
            "spec": {"replicas": replicas, "selector": selector, "template": template},
        }
        budget = {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": NAME},
            "spec": {"minAvailable": 1, "selector": selector},
        }
        async with KubeApi(self.url, self.identity) as api:
            await api.put_object(DEPLOYMENTS, NAME, deployment)
            await api.put_object(BUDGETS, NAME, budget)

    def watch(self, addresses: tuple[str, ...]) -> None:
        """Begin to ask the pods at these addresses."""
        self._addresses, self._last = addresses, time.monotonic()
        self._thread = threading.Thread(target=self._ask, name="workload", daemon=True)
        self._thread.start()

    def reset(self) -> None:
        """Count from now on."""
        self.answered, self.longest_gap_s, self.asked = {}, 0.0, 0
        self._last = time.monotonic()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2 * ASK_TIMEOUT_S * len(self._addresses))

    def wait_for_answers_from(self, node: str, timeout_s: float) -> None:
        """Wait until a pod on the node answers, from now on."""
        before, deadline = self.answered.get(node, 0), time.monotonic() + timeout_s
        while self.answered.get(node, 0) <= before:
            if time.monotonic() > deadline:
                raise BenchmarkError(f"no pod on {node} answers within {timeout_s:g} s; {self.answered}")
            self._stop.wait(EVERY_S)

    def _ask(self) -> None:
        """Ask each pod; one answer of any is the workload's."""
        while not self._stop.wait(EVERY_S):
            self.asked += 1
            for address in self._addresses:
                text = _answer_of(address)
                if text is None:
                    continue
                node = text.partition(" on ")[2].partition(",")[0]
                self.answered[node] = self.answered.get(node, 0) + 1
                now = time.monotonic()
                self.longest_gap_s = max(self.longest_gap_s, now - self._last)
                self._last = now


def _answer_of(address: str) -> str | None:
    try:
        with urllib.request.urlopen(f"http://{address}:{PORT}/", timeout=ASK_TIMEOUT_S) as answer:
            return str(answer.read(200).decode())
    except OSError:
        return None
