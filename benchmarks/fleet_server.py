"""The control server of a fleet as a process of its own, for the cases that measure it.

    python -m benchmarks.fleet_server STATE NODES enrolled|tickets

Makes a cluster of NODES nodes in STATE: all of them enrolled and Ready, each with a certificate, or all of
them written to a card, each with a ticket. Then serves them over TLS on every loopback address, with the
same services beside it as in `bramble serve` (time limits, silence, timelines). No Kubernetes API answers
it. What its nodes need stands in STATE/callers; prints one JSON line when it listens, and ends with
SIGTERM or SIGINT.
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
from typing import Any, Final

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from benchmarks.agent_server import NoImages
from fleet.api.doors import serve_control
from fleet.api.guard import Limits
from fleet.collector import settle_collector
from fleet.controller import Controller
from fleet.installs import ControlInfo
from fleet.k3s.material import open_k3s
from fleet.lifecycle import State
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec
from fleet.store.database import Store
from fleet.store.tables import nodes
from fleet.trust.pki import ControlPki, open_pki

LOOPBACK: Final = "127.0.0.1"
BOOT_ID: Final = "3c1f0c52-7c0d-4b5e-9a0e-5a0c6d1f9e11"
FIRST_SERIAL: Final = 0x10000000A0000000
ENROLLED: Final = "enrolled"
TICKETS: Final = "tickets"
UNLIMITED: Final = Limits(node_burst=1_000_000, node_per_second=1_000_000.0)
"""A node reports every ten seconds; here it does so as fast as it is answered."""
HEAD: Final = """\
version: 1
cluster:
  name: bench
  domain: bench.internal
  k3s: {version: v1.33.5+k3s1}
image:
  base: debian-trixie
  user: {name: pi, ssh_authorized_keys: []}
network:
  interface: lo
  dhcp: off
  subnet: 127.0.0.0/8
nodes:
"""
NODE: Final = (
    "  - {{name: {name}, board: pi5, role: {role}, serial: '{serial}', address: {address}, disk: nvme}}\n"
)


def node_name(number: int) -> str:
    return f"node-{number:05d}"


def node_serial(number: int) -> str:
    """The serial number of a node's board."""
    return f"{FIRST_SERIAL + number:016x}"


def write_cluster(path: Path, count: int) -> None:
    """A cluster.yaml with `count` nodes, of which the first is the server."""
    lines = [
        NODE.format(
            name=node_name(number),
            role="agent" if number else "server",
            serial=node_serial(number),
            address=IPv4Address("127.16.0.1") + number,
        )
        for number in range(count)
    ]
    path.write_text(HEAD + "".join(lines), "utf-8")


def enrol_all(store: Store, pki: ControlPki, spec: ClusterSpec, callers: Path, now: float) -> None:
    """Every node is Ready and has a certificate; one key serves all, which only its holder could tell."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    csr_pem = request.public_bytes(serialization.Encoding.PEM).decode()
    with store.write() as tx:
        rows: list[dict[str, Any]] = []
        for record in tx.nodes():
            issued = pki.issue_node_certificate(csr_pem, uuid=record.uuid, node=record.name, now=now)
            (callers / f"{record.name}.pem").write_text(pem + issued.pem, "ascii")
            rows.append({"the_node": record.name, "certificate": issued.serial})
        steady = {"state": State.READY.value, "since": now, "progressed_at": now, "join_allowed": True}
        tx.connection.execute(
            sa.update(nodes)
            .where(nodes.c.name == sa.bindparam("the_node"))
            .values(certificate=sa.bindparam("certificate"), boot_id=BOOT_ID, boots=1, **steady),
            rows,
        )
        tx.put_value("k3s.founder", spec.nodes[0].name)
        tx.put_value("k3s.founded", spec.nodes[0].name)


def hand_out_all(controller: Controller, spec: ClusterSpec, callers: Path) -> None:
    """Every node was written to a card: it has a ticket."""
    tickets = {}
    for node in spec.nodes:
        given = controller.handouts.begin(node.name)
        controller.handouts.finish(node.name, given.intent, image_id="bench", medium="a file")
        tickets[node.name] = given.ticket.reveal()
    (callers / "tickets.json").write_text(json.dumps(tickets), "utf-8")


async def serve(state: Path, count: int, kind: str) -> None:
    """Serve until SIGTERM or SIGINT."""
    callers = state / "callers"
    callers.mkdir(parents=True)
    write_cluster(state / "cluster.yaml", count)
    began = time.monotonic()
    spec = load_cluster(state / "cluster.yaml")
    loaded_s = time.monotonic() - began
    now = time.time()
    pki = open_pki(state, spec.name, now)
    pki.ensure_server_certificate([IPv4Address(LOOPBACK)], [], now)
    store = Store.open(state / "control.db")
    k3s = open_k3s(state / "k3s", spec.name, now)
    began = time.monotonic()
    controller = Controller(store, spec, pki, k3s, NoImages(), ControlInfo((), pki.ca_pem))
    declared_s = time.monotonic() - began
    if kind == ENROLLED:
        enrol_all(store, pki, spec, callers, now)
    else:
        hand_out_all(controller, spec, callers)
    (callers / "ca.pem").write_text(pki.ca_pem, "ascii")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serve_control(controller, LOOPBACK, 0, pki.server_context(), UNLIMITED) as port:
        keeper = asyncio.create_task(controller.run())
        settle_collector()
        print(json.dumps({"port": port, "loaded_s": loaded_s, "declared_s": declared_s}), flush=True)
        await stop.wait()
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
    store.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
