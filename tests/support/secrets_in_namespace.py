"""Run by tests inside a network namespace of its own: a whole `bramble serve`, taken through every state of a
node, and somebody who fetches everything that it serves over TFTP and plain HTTP.

``unshare --user --map-root-user --net --mount python secrets_in_namespace.py DIRECTORY``

Prints one JSON object: how many files were fetched in which state, and every secret that stood in one.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import itertools
import json
import re
import socket
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
import zstandard
from cables import lay_cables
from fakes_bramble import FakeImageStore, make_image
from fakes_device import Board
from fakes_fleet import cluster_spec, hardware_of, node_spec, status_report

from agent.protocol import InstallComplete, Outcome
from bramble.paths import StateLayout
from bramble.serve import Server
from fleet.lifecycle import State
from fleet.spec.model import Role
from fleet.store.tables import intents, nodes
from imagebuilder.build import Image

ADDRESS = "10.77.0.1"
WAIT_S = 90.0
SERVER_NODE, AGENT_NODE = node_spec("pi5-1", 1, role=Role.SERVER), node_spec("pi4-1", 2)
CLIENTS = ("10.77.0.11", "10.77.0.12", "10.77.0.99")
"""The addresses of both nodes, and a stranger's."""
OUTSIDE = ("control-ca.key", "control.key", "ticket.key", "control.db", "control.db-wal", "k3s/server-token")
SESSION_KEYS = (b"s" * 32, b"a" * 32)


def fill_image(root: Path) -> Image:
    """An image with a boot tree, an installer, and a disk in compressed form."""
    image = make_image(root)
    for name in ("kernel8.img", "bcm2712-rpi-5-b.dtb", "overlays/vc4.dtbo", "cmdline.txt"):
        path = image.boot_tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"content of {name}".encode() * 50)
    image.installer_initramfs.parent.mkdir(parents=True, exist_ok=True)
    image.installer_initramfs.write_bytes(b"cpio" * 100)
    image.compressed.write_bytes(zstandard.compress(image.disk.read_bytes()))
    image.index.write_text("{}")
    return image


@dataclass
class Findings:
    """What was fetched, and what should not have been in it."""

    secrets: dict[str, bytes] = field(default_factory=dict)
    fetched: dict[str, int] = field(default_factory=dict)
    leaks: list[str] = field(default_factory=list)

    def learn(self, name: str, secret: bytes) -> None:
        """A secret, in the forms in which it could be written."""
        for form, data in (
            ("plain", secret),
            ("hex", secret.hex().encode()),
            ("base64", base64.b64encode(secret).rstrip(b"=")),
        ):
            if len(data) >= 16:
                self.secrets[f"{name} ({form})"] = data

    def look(self, state: str, where: str, body: bytes) -> None:
        self.fetched[state] = self.fetched.get(state, 0) + 1
        if body.startswith(b"\x28\xb5\x2f\xfd"):
            body += zstandard.ZstdDecompressor().decompressobj().decompress(body)
        self.leaks += [f"{state}: {where}: {name}" for name, data in self.secrets.items() if data in body]


def learn_directory(findings: Findings, directory: Path) -> None:
    """Every private key, token and other secret that the state directory holds."""
    for path in sorted(path for path in directory.rglob("*") if path.is_file() and ".db" not in path.name):
        data = path.read_bytes()
        name = str(path.relative_to(directory))
        keys = re.findall(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)-----END", data, re.DOTALL)
        for key in keys:
            findings.learn(name, b"".join(key.split())[40:104])
            findings.secrets[f"{name} (DER)"] = base64.b64decode(b"".join(key.split()))[-32:]
        if not keys and not path.name.endswith((".crt", ".pem", ".json", ".lock", ".leases")):
            findings.learn(name, data.strip())


def tftp_get(client: str, name: str) -> bytes | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((client, 0))
        sock.settimeout(WAIT_S)
        sock.sendto(b"\0\1" + name.encode() + b"\0octet\0blksize\0001400\0", (ADDRESS, 69))
        body, size, expected = b"", 512, 1
        while True:
            packet, peer = sock.recvfrom(2048)
            code, block = packet[1], int.from_bytes(packet[2:4], "big")
            if code == 5:
                return None
            if code == 6:
                size = 1400
                sock.sendto(b"\0\4\0\0", peer)
            elif code == 3 and block == expected:
                body += packet[4:]
                sock.sendto(packet[:1] + b"\4" + packet[2:4], peer)
                expected += 1
                if len(packet) - 4 < size:
                    return body


def http_get(client: str, path: str) -> bytes | None:
    connection = http.client.HTTPConnection(ADDRESS, 7080, timeout=WAIT_S, source_address=(client, 0))
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read() + str(answer.getheaders()).encode()
        return body if answer.status == 200 else None
    finally:
        connection.close()


def names_of(server: Server) -> Iterator[str]:
    """Everything that a boot tree of the table holds, and some that it must not."""
    for node in server._boot_table().nodes:
        tree = node.tree
        yield from tree.rendered
        yield from tree.extra
        if tree.root is not None:
            yield from (str(path.relative_to(tree.root)) for path in tree.root.rglob("*") if path.is_file())
    yield from ("config.txt", "cmdline.txt", "boot.img", "boot.sig", "user-data", "meta-data", "node.json")


def fetch_all(server: Server, findings: Findings, state: str, clients: Iterable[str] = CLIENTS) -> None:
    """Every name, by every way, from every address."""
    names = sorted(set(names_of(server)))
    escapes = [f"{'../' * depth}{name}" for depth in (1, 3) for name in OUTSIDE]
    prefixes = ("", "abcd0001/", "abcd0002/", "deadbeef/")
    images = [f"/images/{name}" for name in server._boot_table().images]
    for client in clients:
        for prefix, name in itertools.product(prefixes, [*names, *escapes]):
            for way, body in (
                ("tftp", tftp_get(client, prefix + name)),
                ("http", http_get(client, "/boot/" + quote(prefix + name))),
            ):
                if body is not None:
                    findings.look(state, f"{way} {client} {prefix}{name}", body)
        for path in [
            *images,
            "/metrics",
            "/",
            "/images/",
            "/images/x/control-ca.key",
            "/boot/../control.key",
        ]:
            body = http_get(client, path)
            if body is not None:
                findings.look(state, f"http {client} {path}", body)


class Play:
    """The server's life, one state after another."""

    def __init__(self, server: Server, state: StateLayout, findings: Findings) -> None:
        self.server, self.state, self.findings = server, state, findings
        self.controller = server._controller
        # Whoever fetches all files fetches kernels too, and would be counted as a board that boots for ever.
        self.controller.record_boot_event = lambda _report: None  # type: ignore[method-assign,assignment]

    async def at(self, name: str, clients: Iterable[str] = CLIENTS) -> None:
        """Fetch everything, here and now."""
        self.server._refresh()
        self.learn_store()
        self.findings.fetched.setdefault(name, 0)
        await asyncio.to_thread(fetch_all, self.server, self.findings, name, clients)

    def learn_store(self) -> None:
        with self.server._store.read() as reader:
            for node in reader.nodes():
                self.findings.learn(f"node password of {node.name}", node.node_password.reveal().encode())
                for ticket in reader.tickets(node.name):
                    secret = self.server._pki.ticket(node.name, ticket.intent, ticket.attempt).reveal()
                    self.findings.learn(f"ticket of {node.name}", bytes.fromhex(secret))
        for key in SESSION_KEYS:
            self.findings.learn("session key", key)

    async def life(self) -> None:
        """From declared to joined, through the real desks."""
        await self.at("declared")
        for node, key in zip((SERVER_NODE, AGENT_NODE), SESSION_KEYS, strict=True):
            board = Board(self, hardware_of(node), None, key)  # type: ignore[arg-type]
            if node.role is Role.SERVER:
                assert board.install().outcome is Outcome.PENDING
                await self.at("waits for approval")
                self.controller.people.approve(node.name)
            token = board.install().token or ""
            self.findings.learn(f"token of {node.name}", token.encode())
            plan = self.controller.installs.plan(token)
            assert any(patch.data_hex for patch in plan.delta)
            await self.at(f"{node.role} is being installed")
            done = InstallComplete(plan.intent, plan.image.image_id, "/dev/nvme0n1", 1, 1, 1.0)
            self.controller.installs.complete(token, done)
            ticket = self.server._pki.ticket(node.name, 1, 0).reveal()
            assert board.enrol(ticket=ticket).outcome is Outcome.ENROLLED
            with self.server._store.read() as reader:
                certificate = reader.require_node(node.name).certificate
            self.controller.joins.status(certificate, status_report(hardware_of(node), 1))
            if self.controller.joins.desired(certificate).join:
                material = self.controller.joins.join_material(certificate)
                learn_material(self.findings, material.files)
            await self.at(f"{node.role} joins")

    async def every_state(self) -> None:
        """States and intents in every combination, set in the record itself."""
        for state, is_open in itertools.product(State, (True, False)):
            closed = None if is_open else 1.0
            with self.server._store.write() as tx:
                tx.connection.execute(sa.update(nodes).values(state=state.value))
                tx.connection.execute(sa.update(intents).values(closed=closed, expires=4e9))
            await self.at(f"{state.value}, intent {'open' if is_open else 'closed'}", CLIENTS[:1])


def learn_material(findings: Findings, files: Iterable[Any]) -> None:
    for file in files:
        for token in re.findall(r"K10[0-9a-f]{64}::\w*:?(\S{16,})", file.content):
            findings.learn(f"token in {file.path}", token.strip("\"'").encode())


async def main(directory: Path) -> None:
    image = fill_image(directory / "image")
    state = StateLayout(directory=directory / "state")
    server, ready = (
        Server(cluster_spec(SERVER_NODE, AGENT_NODE), image, state, FakeImageStore()),
        asyncio.Event(),
    )
    running = asyncio.create_task(server.run(ready.set))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=WAIT_S)
    if running.done():
        running.result()
    findings = Findings()
    try:
        learn_directory(findings, state.directory)
        play = Play(server, state, findings)
        await play.life()
        await play.every_state()
        clean = list(findings.leaks)
        # Does the search find what is there? A ticket in a boot tree, plainly and in a compressed file.
        ticket = server._pki.ticket("pi5-1", 1, 0).reveal()
        (image.boot_tree / "user-data").write_text(f"ticket: {ticket}\n")
        (image.boot_tree / "kernel8.img").write_bytes(zstandard.compress(b"x" * 9 + bytes.fromhex(ticket)))
        findings.leaks.clear()
        with server._store.write() as tx:
            tx.connection.execute(sa.update(nodes).values(state=State.NETBOOTING.value))
            tx.connection.execute(sa.update(intents).values(closed=None, expires=4e9))
        await play.at("planted", CLIENTS[:1])
        report = {
            "fetched": findings.fetched,
            "secrets": sorted(findings.secrets),
            "leaks": clean,
            "planted": findings.leaks,
        }
        print(json.dumps(report))
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


if __name__ == "__main__":
    lay_cables({"eth0": (ADDRESS, *CLIENTS)})
    asyncio.run(main(Path(sys.argv[1])))
