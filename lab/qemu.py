"""A QEMU machine: its command line (pure), and the running process with its serial line and its monitor.

The machine is `virt`, not a model of a Raspberry Pi: what the guest sees of its board is the identity in the
device tree, the kind of its disks, and its MAC address.

Why disks are opened with `cache=unsafe`: a power cut is a SIGKILL of QEMU. Every write that the guest saw
completed is then in the host's page cache, whatever the cache mode, and stays there; only writes in flight
are lost or torn. Passing the guest's flushes on as fsync would cost minutes and protect only against a crash
of the host itself, which ends the lab anyway. It also means that the lab is kinder than a real disk, which
may forget completed writes that were not flushed.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import re
import selectors
import socket
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Final

from fleet.boards import DiskKind, MacAddress, Soc
from lab.disk import VirtualDisk
from lab.errors import LabError, ToolMissingError
from lab.replug import ADAPTER_ID, Adapter
from lab.runner import require_tool, run, spawn

MACHINE: Final = "virt"
OLDEST_MAJOR: Final = 8
BINARY: Final = "qemu-system-aarch64"
_READ_BYTES: Final = 65536
_END_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Cpu:
    """A processor as QEMU names it, and how many."""

    model: str
    count: int = 2

    @classmethod
    def of(cls, soc: Soc, count: int = 2) -> Cpu:
        """The core of a Raspberry Pi's system on chip."""
        return cls("cortex-a72" if soc is Soc.BCM2711 else "cortex-a76", count)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserNetwork:
    """A network that ends in QEMU: the guest has a link, gets or keeps an address, and reaches nobody."""

    subnet: IPv4Network
    host: IPv4Address

    @property
    def argument(self) -> str:
        """For -netdev. QEMU's name server must not be the host, nor an address that a node has: the last
        one."""
        dns = self.subnet.broadcast_address - 1
        return f"user,id=net0,restrict=on,ipv6=off,net={self.subnet},host={self.host},dns={dns}"


class MachineKind(StrEnum):
    """QEMU's machine."""

    VIRT = "virt"
    RASPI4B = "raspi4b"
    """A model of the Pi 4, with the image's own device tree; slower, one SD card, no netboot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSpec:
    """Everything that a machine is started with.

    `tap` is None for a board whose cable is unplugged, or plugged into a `user_network`.
    """

    name: str
    cpu: Cpu
    memory_mib: int
    kernel: Path
    initramfs: Path | None
    dtb: Path
    cmdline: str
    disks: tuple[VirtualDisk, ...]
    mac: MacAddress
    tap: str | None
    user_network: UserNetwork | None = None
    kind: MachineKind = MachineKind.VIRT

    @property
    def has_link(self) -> bool:
        return self.tap is not None or self.user_network is not None


def firmware_cmdline(cmdline: str) -> str:
    """The command line as the kernel gets it: with the primary UART's name, here a PL011, for `serial0`."""
    return re.sub(r"\bconsole=serial0\b", "console=ttyAMA0", cmdline)


def build_argv(spec: MachineSpec, *, monitor_fd: int) -> list[str]:
    """QEMU's command line. `monitor_fd` is a connected socket that QEMU inherits and speaks QMP on."""
    argv = [
        BINARY,
        *("-name", spec.name, "-nodefaults", "-no-user-config", "-display", "none"),
        *(
            "-machine",
            spec.kind.value,
            *(() if spec.kind is MachineKind.RASPI4B else ("-cpu", spec.cpu.model)),
            "-smp",
            str(spec.cpu.count),
            "-m",
            str(spec.memory_mib),
        ),
        *("-accel", "tcg,thread=multi"),
        # A guest's reboot ends QEMU: on a board it goes back to the bootloader, which is ours.
        "-no-reboot",
        # The processors wait for our `cont`, so that a guest can not end before we listen to why.
        "-S",
        *("-kernel", str(spec.kernel), "-dtb", str(spec.dtb), "-append", firmware_cmdline(spec.cmdline)),
    ]
    if spec.initramfs is not None:
        argv += ["-initrd", str(spec.initramfs)]
    argv += [
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=monitor,fd={monitor_fd}", "-mon", "chardev=monitor,mode=control"),
    ]
    if spec.tap is not None:
        argv += ["-netdev", f"tap,id=net0,ifname={spec.tap},script=no,downscript=no"]
    elif spec.user_network is not None:
        argv += ["-netdev", spec.user_network.argument]
    if spec.kind is MachineKind.RASPI4B:
        if spec.has_link:
            argv += ["-device", ",".join(f"{key}={value}" for key, value in _usb_adapter(spec).items())]
        return [*argv, *(word for disk in spec.disks for word in ("-drive", _drive("if=sd", disk)))]
    # Without it the guest waits for entropy before the first TLS connection.
    argv += ["-device", "virtio-rng-pci"]
    if spec.has_link:
        argv += ["-device", f"virtio-net-pci,netdev=net0,mac={spec.mac},romfile="]
    if any(disk.kind is DiskKind.USB for disk in spec.disks):
        argv += ["-device", "qemu-xhci,id=xhci"]
    for number, disk in enumerate(spec.disks):
        argv += _disk_argv(f"disk{number}", disk)
    return argv


def _usb_adapter(spec: MachineSpec) -> dict[str, str]:
    """The properties of the network adapter.

    The controller has one port. Unless it is named, QEMU puts a hub into it, which would stay when the
    adapter is pulled out.
    """
    return {
        "driver": "usb-net",
        "id": ADAPTER_ID,
        "bus": "usb-bus.0",
        "port": "1",
        "netdev": "net0",
        "mac": str(spec.mac),
    }


def _disk_argv(name: str, disk: VirtualDisk) -> list[str]:
    argv = ["-drive", _drive(f"if=none,id={name}", disk)]
    match disk.kind:
        case DiskKind.NVME:
            return [*argv, "-device", f"nvme,drive={name},serial={disk.serial}"]
        case DiskKind.SD:
            return [*argv, "-device", f"sdhci-pci,id={name}-host", "-device", f"sd-card,drive={name}"]
        case DiskKind.USB:
            return [*argv, "-device", f"usb-storage,bus=xhci.0,drive={name},serial={disk.serial}"]


def _drive(how: str, disk: VirtualDisk) -> str:
    path = str(disk.path).replace(",", ",,")
    return f"{how},file={path},format=raw,cache=unsafe,discard=unmap,detect-zeroes=unmap"


def require_qemu() -> None:
    """Check that QEMU is there and new enough.

    Raises:
        ToolMissingError: It is not.
    """
    require_tool(BINARY)
    text = run([BINARY, "--version"]).stdout.decode("utf-8", "replace")
    match = re.search(r"version (\d+)\.(\d+)", text)
    if match is None or int(match[1]) < OLDEST_MAJOR:
        found = f"{match[1]}.{match[2]}" if match else "of unknown version"
        raise ToolMissingError(
            f"QEMU {found} is too old for virtual boards, {OLDEST_MAJOR}.0 is the oldest that works",
            "On Debian 12 install qemu-system-arm from bookworm-backports (scripts/setup-system does).",
        )


class End(enum.Enum):
    """Why a machine ended."""

    REBOOT = "guest-reset"
    SHUTDOWN = "guest-shutdown"
    PANIC = "guest-panic"
    CUT = "cut"
    """We ended it: somebody pulled the plug."""


class Machine:
    """A running QEMU. One thread starts it and stays in `run`; the process dies with that thread."""

    def __init__(self, spec: MachineSpec, run_dir: Path) -> None:
        ours, theirs = socket.socketpair()
        self._errors = run_dir / "qemu.stderr"
        self._monitor = ours
        self._monitor_text = b""
        self._adapter: Adapter | None = None
        if spec.kind is MachineKind.RASPI4B and spec.has_link:
            self._adapter = Adapter(_usb_adapter(spec), self._execute)
        self._end: End | None = None
        with theirs, self._errors.open("wb") as stderr:
            argv = build_argv(spec, monitor_fd=theirs.fileno())
            try:
                self._process = spawn(argv, stderr=stderr, pass_fds=[theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        if self._process.stdout is None or self._process.stdin is None:
            raise LabError("QEMU was started without pipes")
        self._console = self._process.stdout
        self._input = self._process.stdin

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, wake_fd: int, on_console: Callable[[bytes], None]) -> End:
        """Serve the machine until it ends. A readable `wake_fd` pulls the plug.

        Raises:
            LabError: QEMU ended by an error of its own.
        """
        try:
            return self._serve(wake_fd, on_console)
        finally:
            self._process.kill()
            self._process.wait()
            self._console.close()
            self._input.close()
            self._monitor.close()

    def _serve(self, wake_fd: int, on_console: Callable[[bytes], None]) -> End:
        for command in ("qmp_capabilities", "cont"):
            self._execute(command)
        with selectors.DefaultSelector() as selector:
            selector.register(wake_fd, selectors.EVENT_READ)
            selector.register(self._console, selectors.EVENT_READ)
            selector.register(self._monitor, selectors.EVENT_READ)
            open_ends = {self._console.fileno(), self._monitor.fileno()}
            while open_ends:
                for key, _ in selector.select(self._adapter.wait_s if self._adapter else None):
                    if key.fd == wake_fd:
                        return End.CUT
                    try:
                        data = os.read(key.fd, _READ_BYTES)
                    except ConnectionResetError:  # QEMU left without reading everything that we said
                        data = b""
                    if not data:
                        selector.unregister(key.fileobj)
                        open_ends.discard(key.fd)
                    elif key.fd == self._monitor.fileno():
                        self._read_monitor(data)
                    else:
                        on_console(data)
                if self._adapter is not None and self._monitor.fileno() in open_ends:
                    self._adapter.look()
        status = self._process.wait(_END_TIMEOUT_S)
        if self._end is None:
            tail = self._errors.read_text("utf-8", "replace").strip().splitlines()[-20:]
            raise LabError(
                f"QEMU ended with status {status} before its guest did: {' / '.join(tail) or 'no message'}"
            )
        return self._end

    def _execute(self, command: str, arguments: dict[str, Any] | None = None) -> None:
        """Send a QMP command."""
        message = {"execute": command, "arguments": arguments or {}}
        with contextlib.suppress(BrokenPipeError):  # it has left; the console's end says so
            self._monitor.sendall(json.dumps(message).encode() + b"\n")

    def _read_monitor(self, data: bytes) -> None:
        *lines, self._monitor_text = (self._monitor_text + data).split(b"\n")
        for line in lines:
            message: dict[str, Any] = json.loads(line)
            if message.get("event") == "SHUTDOWN":
                reason = message["data"]["reason"]
                self._end = next((end for end in End if end.value == reason), self._end)
            elif "error" in message:
                raise LabError(f"QEMU refused a command of ours: {message['error'].get('desc')}")
            elif "return" in message and self._adapter is not None:
                self._adapter.on_answer(message["return"])
