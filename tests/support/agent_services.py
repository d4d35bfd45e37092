"""The agent's service in a thread of the test's own process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent_nodes import FakeSystem

from agent.backoff import Backoff
from agent.host import Host
from agent.notify import ServiceManager
from agent.service import Service
from agent.state import load_node_config


def make_service(root: Path, system: FakeSystem, **host: object) -> Service:
    surroundings = Host(root=root, run=system, min_interval_s=0.0, **host)  # type: ignore[arg-type]
    config = load_node_config(surroundings.node_file)
    return Service(config, surroundings, ServiceManager(), backoff=Backoff(first_s=0.01, cap_s=0.05))


@contextmanager
def serving(service: Service) -> Iterator[threading.Thread]:
    """The service in a thread; stopping it is part of what is tested."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            service.run()
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread
    finally:
        service.stop()
        thread.join(60)
    assert not thread.is_alive()
    assert not failures
