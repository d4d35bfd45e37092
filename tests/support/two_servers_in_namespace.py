"""Run by a test inside a network namespace of its own: two whole `bramble serve` on one PostgreSQL.

``unshare --user --map-root-user --net --mount python two_servers_in_namespace.py DIRECTORY DATABASE_URL``

A board may install. A person then writes its card at the first server; the second one, which nobody tells,
has to stop serving it. Then another node gets another board there, and a third one is declared. Prints one
JSON object: what the second server answered before and in the end, which board it takes that node for, and
which nodes it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from cables import lay_cables
from fakes_bramble import FakeImageStore, make_image
from typed_cluster import HEAD, node_line

from bramble.paths import StateLayout
from bramble.serve import Server
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec, DhcpMode
from fleet.store_place import PostgresPlace

ADDRESSES = {"eth0": "10.77.0.1", "eth1": "10.77.0.2"}
WAIT_S = 90.0
NEW_SERIAL = "10000000abcd00ff"
DATA, ERROR = 3, 5
"""Opcodes of RFC 1350."""


def opcode(address: str) -> int:
    """What a server answers the board that asks for its config.txt."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as board:
        board.bind((address, 0))
        board.settimeout(WAIT_S)
        board.sendto(b"\0\1abcd0001/config.txt\0octet\0", (address, 69))
        answer, peer = board.recvfrom(600)
        board.sendto(b"\0\5\0\0enough\0", peer)
    return int.from_bytes(answer[:2], "big")


def spec_on(interface: str, directory: Path, more: str = "") -> ClusterSpec:
    file = directory / f"{interface}.yaml"
    file.write_text(HEAD + node_line("one", 1, role="server") + node_line("two", 2) + more)
    spec = load_cluster(file)
    address = IPv4Address(ADDRESSES[interface])
    network = replace(spec.network, interface=interface, server_address=address, dhcp=DhcpMode.OFF)
    return replace(spec, network=network)


@contextlib.asynccontextmanager
async def serving(server: Server) -> AsyncIterator[None]:
    ready = asyncio.Event()
    running = asyncio.create_task(server.run(ready.set))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=WAIT_S)
    if running.done():
        running.result()
    try:
        yield
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def main(directory: Path, place: PostgresPlace) -> None:
    image = make_image(directory / "image")
    image.installer_initramfs.parent.mkdir(parents=True, exist_ok=True)
    image.installer_initramfs.write_bytes(b"cpio")
    layouts = [StateLayout(directory=directory / name, postgres=place) for name in ("first", "second")]
    first = Server(spec_on("eth0", directory), image, layouts[0], FakeImageStore())
    shutil.copytree(layouts[0].directory, layouts[1].directory)  # the same keys, as its documentation says
    second = Server(spec_on("eth1", directory), image, layouts[1], FakeImageStore())
    async with serving(first), serving(second):
        told = {"before": await asyncio.to_thread(opcode, ADDRESSES["eth1"])}
        desk = first._controller.handouts
        given = desk.begin("one")
        desk.finish("one", given.intent, image_id="image", medium="a card")
        deadline = time.monotonic() + WAIT_S
        while (after := await asyncio.to_thread(opcode, ADDRESSES["eth1"])) != ERROR:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.1)
        first._controller.reimages.replace("two", NEW_SERIAL, by="ana")
        while (board := serial_of(second, "two")) != NEW_SERIAL:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.1)
        first._controller.declare(spec_on("eth0", directory, node_line("three", 3)))
        while len(nodes := [node.name for node in second._controller.spec.nodes]) < 3:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.1)
        print(json.dumps({**told, "after": after, "two": board, "nodes": nodes}))


def serial_of(server: Server, name: str) -> str | None:
    """The board that a server takes a node for."""
    node = server._controller.spec.find_node(name)
    return node.serial.text if node is not None and node.serial is not None else None


if __name__ == "__main__":
    lay_cables({name: (address,) for name, address in ADDRESSES.items()})
    asyncio.run(main(Path(sys.argv[1]), PostgresPlace(sys.argv[2])))
