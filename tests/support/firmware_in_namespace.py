"""Run by tests in a process of its own: a boot server, and a QEMU machine whose firmware boots from it.

``python firmware_in_namespace.py SCENARIO.json`` enters a private network, serves, starts the machine, and
reads its console until the last of the wanted texts or a deadline. Prints one JSON object: what was seen, the
events of the server, the end of the console.

Keys of the scenario: `qemu` (words after the machine and its network), `mode` (`full`, `proxy`), `mac`,
`kernel`, `initramfs`, `stub`, `ipxe` (paths), `wanted` (texts in their order), `deadline_s`, `work` (a
directory).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from bramble.boot_programs import EfiSources, make_programs
from fleet.boards import MacAddress
from fleet.spec.model import AddressPool, DhcpMode
from lab.network import BRIDGE, add_tap, enter_private_network
from pxe.boot.table import BootTable, BootTree, NodeBootState
from pxe.events import BoardEvent
from pxe.server import PxeConfig, PxeServer

SERVER = IPv4Address("10.77.0.1")
SUBNET = IPv4Network("10.77.0.0/24")
TAP = "board0"
INITRAMFS = "installer.img"
MACHINE = ("qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a57", "-m", "1024", "-display", "none")


class FakeImage:
    """The parts of an image that boot programs are made of."""

    def __init__(self, boot_tree: Path, installer_initramfs: Path) -> None:
        self.boot_tree = boot_tree
        self.installer_initramfs = installer_initramfs


def make_table(scenario: dict[str, Any]) -> BootTable:
    work = Path(scenario["work"])
    tree = work / "tree"
    tree.mkdir(exist_ok=True)
    (tree / "kernel8.img").symlink_to(scenario["kernel"])
    image: Any = FakeImage(tree, Path(scenario["initramfs"]))
    sources = EfiSources(
        stub=Path(scenario["stub"]) if scenario.get("stub") else None,
        ipxe=Path(scenario["ipxe"]) if scenario.get("ipxe") else None,
    )
    mac = MacAddress.parse(scenario["mac"])
    programs = make_programs(image, INITRAMFS, "bramble.node=virt-1 bramble.intent=7 panic=1", sources, mac)
    extra = {
        INITRAMFS: image.installer_initramfs,
        "kernel8.img": Path(scenario["kernel"]),
        **programs.extra,
    }
    node = NodeBootState(
        name="virt-1",
        mac=mac,
        address=IPv4Address("10.77.0.21"),
        install_intent=7,
        tree=BootTree(None, programs.rendered, extra),
    )
    return BootTable((node,))


async def watch(scenario: dict[str, Any], console: asyncio.StreamReader) -> dict[str, Any]:
    """Read the console until the last wanted text; which were seen, and the end of it all."""
    wanted: list[str] = scenario["wanted"]
    seen: list[str] = []
    text, start = "", 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(scenario["deadline_s"]):
            while len(seen) < len(wanted):
                data = await console.read(4096)
                if not data:
                    break
                text += data.decode("ascii", "replace")
                while len(seen) < len(wanted) and (at := text.find(wanted[len(seen)], start)) >= 0:
                    start = at + len(wanted[len(seen)])
                    seen.append(wanted[len(seen)])
    return {"seen": seen, "console": text}


async def run(scenario: dict[str, Any]) -> dict[str, Any]:
    events: list[dict[str, str | None]] = []

    def record(event: BoardEvent) -> None:
        events.append({"kind": event.kind, "node": event.node, "text": event.describe()})

    config = PxeConfig(
        server_address=SERVER,
        subnet=SUBNET,
        dhcp=DhcpMode(scenario["mode"]),
        state_dir=Path(scenario["work"]) / "state",
        interface=BRIDGE,
        gateway=SERVER,
        pool=AddressPool(IPv4Address("10.77.0.100"), IPv4Address("10.77.0.110")),
        grace_s=0.5,
    )
    server = PxeServer(config, record, make_table(scenario))
    task = asyncio.create_task(server.run())
    ready = asyncio.create_task(server.ready.wait())
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    router = await start_router(scenario)
    network = f"virtio-net-pci,netdev=n0,mac={scenario['mac']},romfile=,bootindex=1"
    machine = await asyncio.create_subprocess_exec(
        *MACHINE,
        *("-serial", "stdio", "-monitor", "none", "-no-reboot"),
        *("-netdev", f"tap,id=n0,ifname={TAP},script=no,downscript=no", "-device", network),
        *scenario["qemu"],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        assert machine.stdout is not None
        result = await watch(scenario, machine.stdout)
    finally:
        for process in (machine, router):
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    return {**result, "events": events}


async def start_router(scenario: dict[str, Any]) -> asyncio.subprocess.Process | None:
    """In proxy mode the addresses are another server's: dnsmasq as a home router has it."""
    if scenario["mode"] != "proxy":
        return None
    dnsmasq = [
        *("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=router0"),
        *("--dhcp-range=10.77.0.150,10.77.0.160,1h", "--dhcp-option=option:router,10.77.0.254"),
        *(f"--dhcp-leasefile={scenario['work']}/router.leases", "--pid-file=", "--user=root", "--group=root"),
        f"--log-facility={scenario['work']}/router.log",
    ]
    # In a network of its own: both servers want port 67.
    script = (
        "echo here; read go; ip address add 10.77.0.254/24 dev router0; ip link set router0 up; "
        f"exec {shlex.join(dnsmasq)}"
    )
    router = await asyncio.create_subprocess_exec(
        *("unshare", "--net", "sh", "-c", script),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert router.stdin is not None
    assert router.stdout is not None
    await router.stdout.readline()
    add = [
        "ip",
        "link",
        "add",
        "router0",
        "netns",
        str(router.pid),
        "type",
        "veth",
        "peer",
        "name",
        "router1",
    ]
    for command in (add, ["ip", "link", "set", "router1", "master", BRIDGE, "up"]):
        process = await asyncio.create_subprocess_exec(*command)
        assert await process.wait() == 0, command
    router.stdin.write(b"\n")
    await router.stdin.drain()
    return router


def main() -> None:
    scenario = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    enter_private_network()
    add_tap(TAP)
    print(json.dumps(asyncio.run(run(scenario))))


if __name__ == "__main__":
    main()
