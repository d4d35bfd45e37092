"""A pod of the simulator answers HTTP as long as it is there, and on its own port only."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from free_ports import free_port

from lab.k3s_sim.node.responders import Responders

pytestmark = pytest.mark.integration
HERE = "127.0.0.1"


@pytest.fixture
def responders() -> Iterator[Responders]:
    made = Responders("pi-1", HERE)
    yield made
    made.keep([])


def pod(name: str, port: int, **metadata: Any) -> dict[str, Any]:
    ports = [{"containerPort": 80, "hostPort": port}]
    return {
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", **metadata},
        "spec": {"containers": [{"name": "c", "ports": ports}]},
    }


def ask(port: int) -> str:
    with urllib.request.urlopen(f"http://{HERE}:{port}/", timeout=60) as answer:
        return str(answer.read().decode())


def test_a_pod_answers_from_its_start_to_its_end(responders: Responders) -> None:
    port = free_port()
    started = responders.keep([pod("web", port)])
    assert [one["metadata"]["name"] for one in started] == ["web"]
    assert ask(port) == "default/web on pi-1, answered by the k3s simulator\n"
    assert responders.keep([pod("web", port)]) == [], "it runs already"
    assert responders.keep([pod("web", port, deletionTimestamp="2026-01-01T00:00:00Z")]) == []
    with pytest.raises(urllib.error.URLError):
        ask(port)
    assert responders.keep([pod("next", port)]), "its port is free again"
    assert "default/next" in ask(port)


def test_a_port_that_is_taken_is_tried_again(responders: Responders) -> None:
    port = free_port()
    with socket.socket() as taken:
        taken.bind((HERE, port))
        taken.listen()
        assert responders.keep([pod("web", port)]) == []
    assert len(responders.keep([pod("web", port)])) == 1
