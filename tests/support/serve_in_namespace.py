"""Run by tests inside a network namespace of its own: a whole `bramble serve` for one node, and two boards
that ask.

``unshare --user --map-root-user --net --mount python serve_in_namespace.py DIRECTORY``

Prints one JSON object: the metrics before and after, the timelines of both boards, and the doctor's checks.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import ssl
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cables import lay_cables
from dnslib import DNSRecord
from fakes_bramble import FakeImageStore, make_image
from fakes_fleet import cluster_spec, node_spec

from bramble.doctor.checks import run_checks
from bramble.doctor.facts import Wanted
from bramble.doctor.gather import gather
from bramble.doctor.report import as_json
from bramble.paths import StateLayout
from bramble.serve import Server
from fleet.admin_client import FleetReader
from fleet.spec.model import DnsMode

ADDRESS = "10.77.0.1"
WAIT_S = 90.0


def metrics() -> str:
    with urllib.request.urlopen(f"http://{ADDRESS}:7080/metrics", timeout=WAIT_S) as page:
        text: str = page.read().decode()
        return text


def ask(*names: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as board:
        board.bind((ADDRESS, 0))
        board.settimeout(WAIT_S)
        for name in names:
            board.sendto(b"\0\1" + name + b"\0octet\0", (ADDRESS, 69))
            board.recv(600)


def resolve(name: str) -> str:
    return str(DNSRecord.parse(DNSRecord.question(name).send(ADDRESS, 53, timeout=WAIT_S)).short())


def explained(reader: FleetReader, name: str) -> Any:
    """The node's timeline, once it holds a diagnosis."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        timeline = reader.timeline(name)
        if any(event["kind"] == "diagnosis" for event in timeline["events"]):
            return timeline
        time.sleep(0.1)
    raise TimeoutError("no diagnosis")


def dashboard(reader: FleetReader, state: Path) -> dict[str, Any]:
    """A login by the link that the socket gives, and the first page; TLS trusts the control CA alone."""
    link = urlsplit(reader.ask("POST", "/v1/admin/dashboard/links")["url"])
    tls = ssl.create_default_context(cafile=str(state / "control-ca.crt"))
    door = http.client.HTTPSConnection(link.hostname or "", link.port, context=tls, timeout=WAIT_S)
    try:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        door.request("POST", link.path, "", kind)
        entered = door.getresponse()
        entered.read()
        cookie = (entered.headers["Set-Cookie"] or "").partition(";")[0]
        pages = {}
        for path in ("/", "/nodes/one", "/images"):
            door.request("GET", path, headers={"Cookie": cookie})
            pages[path] = door.getresponse().read().decode()
        return {"port": link.port, "status": entered.status, "pages": pages}
    finally:
        door.close()


def play(state: Path) -> dict[str, Any]:
    reader = FleetReader(state)
    before = metrics()
    ask(b"abcd0001/labconfig.txt", b"deadbeef/config.txt")
    node = explained(reader, "one")
    wanted = Wanted(interface="eth0")
    return {
        "before": before,
        "resolved": resolve("one.attic.internal"),
        "node": node,
        "stranger": reader.timeline("DEADBEEF"),
        "after": metrics(),
        "dashboard": dashboard(reader, state),
        "checks": as_json(run_checks(gather(wanted, state, state, 0))),
    }


async def main(directory: Path) -> None:
    image = make_image(directory / "image")
    image.installer_initramfs.parent.mkdir(parents=True, exist_ok=True)
    image.installer_initramfs.write_bytes(b"cpio")
    state = StateLayout(directory=directory / "state")
    spec = cluster_spec(node_spec("one", 1))
    spec = replace(spec, network=replace(spec.network, dns_server=DnsMode.ZONE))
    server, ready = Server(spec, image, state, FakeImageStore()), asyncio.Event()
    running = asyncio.create_task(server.run(ready.set))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=WAIT_S)
    if running.done():
        running.result()
    try:
        print(json.dumps(await asyncio.to_thread(play, state.directory)))
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


if __name__ == "__main__":
    lay_cables({"eth0": (ADDRESS,)})
    asyncio.run(main(Path(sys.argv[1])))
