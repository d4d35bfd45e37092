"""Bramble's boot server in `dhcp: full` on one interface, as a process of its own, for the DHCP case.

    python -m benchmarks.dhcp_server INTERFACE SUBNET FIRST LAST STATE

Prints one line of JSON when it listens, and ends with SIGTERM or SIGINT.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from fleet.spec.model import AddressPool, DhcpMode
from pxe.net.interfaces import require_interface
from pxe.server import PxeConfig, PxeServer


async def serve(interface: str, subnet: IPv4Network, pool: AddressPool, state: Path) -> None:
    """Serve until a signal ends it."""
    config = PxeConfig(
        server_address=require_interface(interface).address,
        subnet=subnet,
        dhcp=DhcpMode.FULL,
        state_dir=state,
        interface=interface,
        pool=pool,
        http_port=0,
        grace_s=1.0,
    )
    server = PxeServer(config, lambda event: None)
    server.bind()
    running = asyncio.create_task(server.run())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    ready = asyncio.create_task(server.ready.wait())
    await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
    if ready.done():
        print(json.dumps({"dhcp": 67}), flush=True)
    ready.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


if __name__ == "__main__":
    asyncio.run(
        serve(
            sys.argv[1],
            IPv4Network(sys.argv[2]),
            AddressPool(IPv4Address(sys.argv[3]), IPv4Address(sys.argv[4])),
            Path(sys.argv[5]),
        )
    )
