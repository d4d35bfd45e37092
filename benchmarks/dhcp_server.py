"""Bramble's boot server in `dhcp: full` on one interface, as a process of its own, for the DHCP case.

    python -m benchmarks.dhcp_server INTERFACE SUBNET FIRST LAST STATE

Prints one line of JSON when it listens, and ends with SIGTERM or SIGINT.
"""

from __future__ import annotations

import asyncio
import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from benchmarks.pxe_process import serve_until_signal
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
    await serve_until_signal(server, lambda: {"dhcp": 67})


if __name__ == "__main__":
    asyncio.run(
        serve(
            sys.argv[1],
            IPv4Network(sys.argv[2]),
            AddressPool(IPv4Address(sys.argv[3]), IPv4Address(sys.argv[4])),
            Path(sys.argv[5]),
        )
    )
