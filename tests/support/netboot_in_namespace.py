"""Run by tests inside a network namespace of its own: a server on one end of a cable, clients on the other.

``unshare --user --map-root-user --net --mount python netboot_in_namespace.py SCENARIO DIRECTORY``

Prints one JSON object a line on stdout: first ``{"ready": true}``, then every event; commands come on stdin:
an argument list in JSON is run in the clients' namespace and answered with ``{"exit": …, "output": …}``. What
the TFTP worker reports of a command's transfers may come after that answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from fleet.boards import MacAddress, Serial
from fleet.spec.model import AddressPool, DhcpMode
from pxe.boot.table import BootTable, BootTree, NodeBootState
from pxe.events import BoardEvent
from pxe.net.interfaces import require_interface
from pxe.server import PxeConfig, PxeServer

SERVER = IPv4Address("10.77.0.1")
SUBNET = IPv4Network("10.77.0.0/24")
CLIENT_MAC = "e4:5f:01:09:02:f7"
CAP_NET_RAW = 13  # linux/capability.h


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def say_event(event: BoardEvent) -> None:
    say(event=event.kind, node=event.node, text=event.describe())


def lay_cable() -> subprocess.Popen[bytes]:
    """Interfaces s0 (here) and c0 (in the namespace of the process that is returned)."""
    holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    if holder.stdin is None or holder.stdout is None:
        raise RuntimeError("no pipes")
    holder.stdin.write(b"\n")
    holder.stdin.flush()
    holder.stdout.readline()  # cat runs, so its namespace is there
    for command in (
        f"ip link add s0 type veth peer name c0 address {CLIENT_MAC} netns {holder.pid}",
        f"ip address add {SERVER}/24 dev s0",
        "ip link set s0 up",
        "ip link set lo up",
        f"nsenter --net=/proc/{holder.pid}/ns/net ip link set c0 up",
        f"nsenter --net=/proc/{holder.pid}/ns/net ip link set lo up",
    ):
        subprocess.run(command.split(), check=True)
    return holder


def drop_raw_sockets() -> None:
    """Give up CAP_NET_RAW for good (prctl(2), PR_CAPBSET_DROP does it for children, capset(2) for us)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # linux/capability.h, version 3
    data = (ctypes.c_uint32 * 6)()
    if libc.capget(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    for part in range(2):  # effective and permitted
        data[part] &= ~(1 << CAP_NET_RAW)
    if libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def make_table(scenario: str, directory: Path) -> BootTable:
    node = NodeBootState(
        name="pi4-worker-1",
        mac=MacAddress.parse(CLIENT_MAC),
        serial=Serial.parse("91cdf03d"),
        address=IPv4Address("10.77.0.21"),
        install_intent=1 if scenario != "installed" else None,
        reason="installed",
        tree=BootTree(directory / "tree", {"config.txt": b"arm_64bit=1\n"}),
    )
    return BootTable(() if scenario.endswith("unknown") else (node,))


async def serve(scenario: str, directory: Path, clients_pid: int) -> None:
    interface = require_interface("s0")
    config = PxeConfig(
        server_address=interface.address,
        subnet=SUBNET,
        dhcp=DhcpMode.PROXY if scenario == "proxy" else DhcpMode.FULL,
        state_dir=directory / "state",
        interface="s0",
        gateway=SERVER,
        dns=(SERVER,),
        domain="attic.internal",
        pool=AddressPool(IPv4Address("10.77.0.100"), IPv4Address("10.77.0.101")),
        mtu=interface.mtu,
        grace_s=1.0,
        netconsole_port=6666,
    )
    if scenario.startswith("no-raw"):
        drop_raw_sockets()
    server = PxeServer(config, say_event, make_table(scenario, directory))
    task = asyncio.create_task(server.run())
    ready = asyncio.create_task(server.ready.wait())
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    say(ready=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        process = await asyncio.create_subprocess_exec(
            "nsenter",
            f"--net=/proc/{clients_pid}/ns/net",
            *json.loads(line),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _none = await process.communicate()
        say(exit=process.returncode, output=output.decode(errors="replace"))
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def main() -> None:
    scenario, directory = sys.argv[1], Path(sys.argv[2])
    holder = lay_cable()
    try:
        asyncio.run(serve(scenario, directory, holder.pid))
    finally:
        holder.kill()
        holder.wait()


if __name__ == "__main__":
    main()
