"""The control server of one node as a process of its own, for the case that measures the node's agent.

    python -m benchmarks.agent_server STATE ROOT

Makes the node's /etc/bramble/node.json below ROOT, then serves its agent over TLS on the loopback address.
The node counts as Ready as soon as it says that its k3s runs, so that it reports at the steady interval.
Prints one JSON line with its port when it listens, and another when the node is Ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final, NoReturn

from benchmarks.errors import BenchmarkError
from fleet.api.doors import serve_control
from fleet.controller import Controller
from fleet.installs import ControlInfo
from fleet.k3s.material import open_k3s
from fleet.kube.client import KubeNode
from fleet.lifecycle import State
from fleet.spec import load_cluster
from fleet.store.database import Store
from fleet.trust.pki import open_pki

NODE: Final = "bench-1"
SERIAL: Final = "10000000abcdef01"
LOOPBACK: Final = "127.0.0.1"
VERSION: Final = "v1.33.5+k3s1"
CLUSTER: Final = f"""\
version: 1
cluster:
  name: bench
  domain: bench.internal
  k3s: {{version: {VERSION}}}
image:
  base: debian-trixie
  user: {{name: pi, ssh_authorized_keys: []}}
network:
  interface: lo
  dhcp: off
  subnet: 127.0.0.0/8
nodes:
  - {{name: {NODE}, board: pi5, role: server, serial: "{SERIAL}", address: 127.0.0.2, disk: nvme}}
"""


class NoImages:
    """The node is not installed: it begins with its ticket."""

    def plan_for(self, *_arguments: object, **_values: object) -> NoReturn:
        raise BenchmarkError("the server of this benchmark installs nothing: its node begins with a ticket")

    describe = prepare = plan_for


async def serve(state: Path, root: Path) -> None:
    """Serve until SIGTERM or SIGINT."""
    spec = load_cluster(state / "cluster.yaml")
    pki = open_pki(state, spec.name, time.time())
    pki.ensure_server_certificate([IPv4Address(LOOPBACK)], [], time.time())
    store = Store.open(state / "control.db")
    k3s = open_k3s(state / "k3s", spec.name, time.time())
    controller = Controller(store, spec, pki, k3s, NoImages(), ControlInfo((), pki.ca_pem))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serve_control(controller, LOOPBACK, 0, pki.server_context()) as port:
        hand_out(controller, pki.ca_pem, port, root)
        print(json.dumps({"port": port}), flush=True)
        ready = asyncio.create_task(make_ready(controller, store))
        await stop.wait()
        ready.cancel()
        await asyncio.gather(ready, return_exceptions=True)
    store.close()


def hand_out(controller: Controller, ca_pem: str, port: int, root: Path) -> None:
    """What a node delta would put into the node's image."""
    given = controller.handouts.begin(NODE)
    controller.handouts.finish(NODE, given.intent, image_id="bench", medium="a directory")
    document = {
        "version": 1,
        "cluster": "bench",
        "node": NODE,
        "role": "server",
        "serial": None,
        "control_urls": [f"https://{LOOPBACK}:{port}"],
        "ca_pem": ca_pem,
        "ticket": given.ticket.reveal(),
    }
    directory = root / "etc/bramble"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "node.json").write_text(json.dumps(document))


async def make_ready(controller: Controller, store: Store) -> None:
    """Say of the node what the Kubernetes API would, once it has joined."""
    while True:
        with store.read() as reader:
            node = reader.require_node(NODE)
        if node.state is State.READY:
            print(json.dumps({"ready": True}), flush=True)
            return
        if node.join_allowed and (node.status or {}).get("k3s") == "running":
            controller.watch.apply_kubernetes({NODE: KubeNode(NODE, True, "", VERSION)})
        await asyncio.sleep(0.2)


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cluster.yaml").write_text(CLUSTER)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(directory, Path(sys.argv[2])))
