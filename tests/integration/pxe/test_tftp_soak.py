"""A boot server that is used, misused and left alone for a while keeps its size.

`SOAK_S` says for how long: a few seconds in the tests, an hour with `make soak`.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

import pytest
from fakes_pxe import LOOPBACK, installing_node, running_server, udp_socket
from process_children import tftp_workers
from tftp_reader import read_file

from pxe.boot.table import BootTable, BootTree
from pxe.server import PxeServer
from pxe.tftp.wire import Ack, Error, Request

pytestmark = pytest.mark.integration

SOAK_S = float(os.environ.get("SOAK_S", "8"))
WARM_UP = 0.4  # of the time: caches and pools have to fill before growth means anything
GROWTH_BYTES = 6 << 20
IDLE_DESCRIPTORS = 40  # of both workers
PREFIX = "91cdf03d"
KERNEL = os.urandom(300_000)


def resident_bytes(pids: list[int]) -> int:
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE")


def descriptors(pids: list[int]) -> int:
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)


def misuse(server: tuple[str, int], chance: random.Random) -> None:
    """Requests that nobody follows up, probes, noise, names that are not there."""
    client = chance.randrange(2, 20_000)
    with udp_socket(client) as sock:
        match chance.randrange(5):
            case 0:
                sock.sendto(chance.randbytes(chance.randrange(0, 600)), server)
            case 1:
                sock.sendto(Request(f"{PREFIX}/{chance.randbytes(8).hex()}").encode(), server)
            case 2:
                sock.sendto(Request(f"{PREFIX}/kernel8.img", (("blksize", "1468"),)).encode(), server)
            case 3:
                sock.sendto(Request(f"{PREFIX}/kernel8.img", (("tsize", "0"),)).encode(), server)
                _data, peer = sock.recvfrom(65536)
                sock.sendto(Error(0, "Early terminate").encode(), peer)
            case _:
                sock.sendto(Ack(chance.randrange(65536)).encode(), server)


def use(server: PxeServer, ends_at: float, seed: int) -> int:
    """One client in a thread: reads and misuses until the time is over; how many files it read."""
    chance = random.Random(seed)
    address = (str(LOOPBACK), server.ports.tftp)
    read = 0
    while time.monotonic() < ends_at:
        for _ in range(20):
            misuse(address, chance)
        window = chance.choice(["1", "4", "16"])
        options = {"blksize": chance.choice(["512", "1024", "1468"]), "windowsize": window}
        assert read_file(address, f"{PREFIX}/kernel8.img", options, seed + 1) == KERNEL
        read += 1
    return read


@pytest.mark.asyncio
async def test_memory_and_descriptors_do_not_grow(tmp_path: Path) -> None:
    tree = tmp_path / "boot"
    tree.mkdir()
    (tree / "kernel8.img").write_bytes(KERNEL)
    table = BootTable((installing_node(BootTree(tree)),))
    async with running_server(table, tmp_path / "state", tftp_workers=2) as server:
        workers = tftp_workers()
        assert len(workers) == 2
        started = time.monotonic()
        ends_at = started + SOAK_S
        clients = [asyncio.create_task(asyncio.to_thread(use, server, ends_at, seed)) for seed in range(3)]
        await asyncio.sleep(SOAK_S * WARM_UP)
        before = resident_bytes(workers)
        read = await asyncio.gather(*clients)
        assert all(count > 0 for count in read)
        assert resident_bytes(workers) - before < GROWTH_BYTES
        async with asyncio.timeout(60):  # what nobody followed up ends within half a minute
            while descriptors(workers) > IDLE_DESCRIPTORS:  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.2)
