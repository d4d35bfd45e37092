"""What runs in place of containers: each pod with a port of its node answers HTTP there, and says who it is.

So a workload can be asked whether it is there. Nothing of its image runs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn

from lab.k3s_sim.node import log
from lab.k3s_sim.node.objects import Object
from lab.k3s_sim.node.workloads import host_ports


class _Server(ThreadingMixIn, TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    text = b""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10

    def do_GET(self) -> None:
        """Any path."""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(self.server.text)))
        self.end_headers()
        self.wfile.write(self.server.text)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not worth a line each."""


@dataclass
class Responders:
    """The answering pods of one node. `address` is where they listen."""

    node: str
    address: str
    running: dict[str, list[_Server]] = field(default_factory=dict)

    def keep(self, pods: Iterable[Object]) -> list[Object]:
        """Start and stop what the node's pods need; those that run from now on."""
        alive = {pod["metadata"]["uid"]: pod for pod in pods if "deletionTimestamp" not in pod["metadata"]}
        for uid in self.running.keys() - alive.keys():
            for server in self.running.pop(uid):
                server.shutdown()
                server.server_close()
        started = []
        for uid, pod in alive.items():
            if uid not in self.running and self._start(uid, pod):
                started.append(pod)
        return started

    def _start(self, uid: str, pod: Object) -> bool:
        servers: list[_Server] = []
        name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        try:
            for port in sorted(host_ports(pod.get("spec") or {})):
                server = _Server((self.address, port), _Handler)
                server.text = f"{name} on {self.node}, answered by the k3s simulator\n".encode()
                servers.append(server)
        except OSError as error:
            log.error(f"pod {name} can not listen: {error.strerror}")
            for server in servers:
                server.server_close()
            return False
        for server in servers:
            threading.Thread(target=server.serve_forever, name=name, daemon=True).start()
        self.running[uid] = servers
        return True


def running_status(address: str) -> Mapping[str, object]:
    """The status of a pod whose containers run."""
    return {
        "phase": "Running",
        "podIP": address,
        "hostIP": address,
        "conditions": [{"type": "Ready", "status": "True"}],
    }
