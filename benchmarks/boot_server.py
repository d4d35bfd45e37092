"""Bramble's boot server as a process of its own, for the cases that measure servers.

    python -m benchmarks.boot_server ROOT STATE [BOARDS [TFTP_PORT]]

Serves the files below ROOT/<serial> over TFTP and those below ROOT/images over HTTP, to a node that may
install and is on the loopback address. Prints one JSON line with its ports when it listens.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

from benchmarks.pxe_process import serve_until_signal
from fleet.boards import MacAddress, Serial
from pxe.boot.table import BootTable, BootTree, NodeBootState
from pxe.tftp.settings import MANY_BOARDS, default_workers

SERIAL: Final = "0badcafe"
"""The directory that a bootloader with this serial asks in."""
FIRST_SERIAL: Final = int(SERIAL, 16)
LOOPBACK: Final = IPv4Address("127.0.0.1")


def make_table(root: Path, boards: int = 1) -> BootTable:
    """Nodes that may install, with everything that lies below `root`; all but the first by serial alone."""
    node = NodeBootState(
        name="bench",
        serial=Serial.parse(SERIAL),
        mac=MacAddress.parse("2c:cf:67:00:00:01"),
        address=LOOPBACK,
        install_intent=1,
        tree=BootTree(root=root / SERIAL),
    )
    images = root / "images"
    files = {path.relative_to(images).as_posix(): path for path in images.rglob("*") if path.is_file()}
    others = (
        replace(
            node,
            name=f"bench-{number}",
            serial=Serial.parse(f"{FIRST_SERIAL + number:08x}"),
            mac=None,
            address=None,
        )
        for number in range(1, boards)
    )
    return BootTable(nodes=(node, *others), images=files)


async def serve(root: Path, state: Path, boards: int, tftp_port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    # Not at the top: the worker processes import this module too, and `bramble` does not load these either.
    from fleet.spec.model import DhcpMode
    from pxe.server import PxeConfig, PxeServer

    config = PxeConfig(
        server_address=LOOPBACK,
        subnet=IPv4Network("127.0.0.0/8"),
        dhcp=DhcpMode.OFF,
        state_dir=state,
        tftp_port=tftp_port,
        tftp_workers=default_workers(MANY_BOARDS),
        http_port=0,
        grace_s=1.0,
    )
    server = PxeServer(config, lambda event: None, make_table(root, boards))
    await serve_until_signal(server, lambda: {"tftp": server.ports.tftp, "http": server.ports.http})


if __name__ == "__main__":
    _boards, _port = map(int, [*sys.argv[3:5], *("1", "0")[len(sys.argv[3:5]) :]])
    asyncio.run(serve(Path(sys.argv[1]), Path(sys.argv[2]), _boards, _port))
