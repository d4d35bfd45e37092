"""What the board is: identity from the device tree, memory, network interfaces, disks.

Pure parsers over recorded file contents, and a thin reader with an injectable root, so that the tree of
another board can be read in tests. Nothing here changes the system.

Sources: device tree paths of the Raspberry Pi firmware (documentation of 2026-05, "device tree, chosen
node"); sysfs ABI of the kernel (Documentation/ABI/stable/sysfs-class-net, sysfs-block, sysfs-bus-mmc).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from agent.errors import AgentError
from agent.protocol import Hardware

ROOT = Path("/")
DEVICE_TREE = Path("proc/device-tree")
SECTOR_BYTES = 512
"""/sys/block/*/size counts 512-byte sectors whatever the device's own sector size is."""

_NOT_A_DISK = re.compile(r"^(loop|ram|zram|sr|dm-|md|nbd|fd|mtdblock|mmcblk\d+(boot\d+|rpmb))")
_SERIAL = re.compile(r"^[0-9a-f]{8,16}$")
_MAC = re.compile(r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """A physical network interface. `onboard` is true for the one that the device tree names `ethernet0`."""

    name: str
    mac: str
    onboard: bool
    wireless: bool
    usb: bool

    @property
    def rank(self) -> tuple[bool, bool, bool, str]:
        """Sort key: on-board Ethernet first, then other wired ones, USB, and wireless last."""
        return (not self.onboard, self.wireless, self.usb, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A whole block device. `kind` is `nvme`, `sd` (cards and eMMC), `usb` or `other`."""

    path: Path
    kind: str
    size_bytes: int
    model: str
    serial: str
    removable: bool = False
    wwn: str = ""

    def describe(self) -> str:
        """`/dev/nvme0n1 (nvme, Samsung SSD 980, serial S64ANS0T123456, 476.9 GiB)`, for messages and
        records."""
        words = [
            self.kind,
            self.model,
            f"serial {self.serial}" if self.serial else "",
            format_size(self.size_bytes),
        ]
        return f"{self.path} ({', '.join(word for word in words if word)})"


def format_size(size_bytes: int) -> str:
    """Binary units with one decimal: `29.7 GiB`."""
    value = float(size_bytes)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.1f} {unit}" if unit != "bytes" else f"{size_bytes} bytes"
        value /= 1024
    return f"{value:.1f} TiB"


def parse_device_tree_text(data: bytes) -> str:
    """A string property: NUL-terminated."""
    return data.split(b"\0", 1)[0].decode("ascii", "replace").strip()


def parse_device_tree_u32(data: bytes) -> int | None:
    """A single cell: 4 bytes, big endian. None when the property has another length."""
    return int.from_bytes(data, "big") if len(data) == 4 else None


def parse_serial(text: str) -> str | None:
    """16 lower-case hex digits, short serials padded with zeros; None when the text is no serial."""
    lowered = text.strip().lower()
    return lowered.rjust(16, "0") if _SERIAL.match(lowered) else None


def parse_meminfo(text: str, key: str) -> int:
    """A value of /proc/meminfo in bytes; the file counts in KiB.

    Raises:
        AgentError: the key is not there.
    """
    match = re.search(rf"^{re.escape(key)}:\s+(\d+) kB$", text, re.MULTILINE)
    if match is None:
        raise AgentError(f"/proc/meminfo has no {key}", "Is /proc mounted?")
    return int(match.group(1)) * 1024


def parse_cpuinfo(text: str, key: str) -> str | None:
    """A `key : value` line of /proc/cpuinfo; Raspberry Pi kernels append Serial, Revision and Model."""
    match = re.search(rf"^{re.escape(key)}\s*: (.+)$", text, re.MULTILINE)
    return match.group(1).strip() if match else None


def read_text(path: Path) -> str | None:
    """The stripped text of a small file; None when it is absent or can not be read (sysfs answers EIO or
    EINVAL)."""
    try:
        return path.read_bytes().decode("utf-8", "replace").strip("\0 \n\t")
    except OSError:
        return None


def _read_property(root: Path, name: str) -> bytes | None:
    try:
        return (root / DEVICE_TREE / name).read_bytes()
    except OSError:
        return None


def read_hardware(root: Path = ROOT) -> Hardware:
    """Everything that the control server may match a board by.

    Raises:
        AgentError: the board has no serial, or /proc is not mounted.
    """
    cpuinfo = read_text(root / "proc/cpuinfo") or ""
    serial_property = _read_property(root, "serial-number")
    serial_text = (
        parse_device_tree_text(serial_property) if serial_property else parse_cpuinfo(cpuinfo, "Serial")
    )
    serial = parse_serial(serial_text or "")
    if serial is None:
        raise AgentError(
            f"the device tree gives no board serial (serial-number is {serial_text!r})",
            "Bramble runs on Raspberry Pi boards; a virtual board's device tree must carry serial-number.",
        )
    model = _read_property(root, "model")
    revision = _read_property(root, "system/linux,revision")
    boot_mode = _read_property(root, "chosen/bootloader/boot-mode")
    revision_text = parse_cpuinfo(cpuinfo, "Revision")
    if revision is not None:
        revision_code = parse_device_tree_u32(revision)
    elif revision_text and re.fullmatch(r"[0-9a-f]{1,8}", revision_text):
        revision_code = int(revision_text, 16)
    else:
        revision_code = None
    return Hardware(
        serial=serial,
        model=parse_device_tree_text(model) if model else parse_cpuinfo(cpuinfo, "Model") or "unknown",
        macs=tuple(interface.mac for interface in read_interfaces(root)),
        memory_bytes=parse_meminfo(read_text(root / "proc/meminfo") or "", "MemTotal"),
        revision=revision_code,
        boot_mode=parse_device_tree_u32(boot_mode) if boot_mode else None,
    )


def read_interfaces(root: Path = ROOT) -> tuple[Interface, ...]:
    """The physical interfaces, best first; virtual ones (bridges, veth, flannel) have no `device` and are
    left out."""
    onboard_mac = _read_onboard_mac(root)
    found = []
    for entry in _entries(root / "sys/class/net"):
        mac = (read_text(entry / "address") or "").lower()
        if not (entry / "device").exists() or not _MAC.match(mac) or mac == "00:00:00:00:00:00":
            continue
        found.append(
            Interface(
                name=entry.name,
                mac=mac,
                onboard=mac == onboard_mac,
                wireless=(entry / "wireless").exists() or (entry / "phy80211").exists(),
                usb="/usb" in str((entry / "device").resolve()),
            )
        )
    return tuple(sorted(found, key=lambda interface: interface.rank))


def _read_onboard_mac(root: Path) -> str | None:
    """The MAC that the firmware wrote into the Ethernet node behind the alias `ethernet0`."""
    alias = _read_property(root, "aliases/ethernet0")
    if not alias:
        return None
    node = parse_device_tree_text(alias).lstrip("/")
    address = _read_property(root, f"{node}/local-mac-address")
    return address.hex(":") if address is not None and len(address) == 6 else None


def read_disks(root: Path = ROOT) -> tuple[Disk, ...]:
    """Every whole disk with a medium in it, by name; no RAM disk, loop device, eMMC boot area, NVMe path."""
    disks = []
    for entry in _entries(root / "sys/block"):
        size = read_text(entry / "size") or "0"
        if _NOT_A_DISK.match(entry.name) or not size.isdigit() or size == "0":
            continue
        # Every NVMe namespace has one more entry per path to it (nvme0c0n1), which can not be opened.
        if read_text(entry / "hidden") == "1":
            continue
        device = (entry / "device").resolve()
        if entry.name.startswith("nvme"):
            kind = "nvme"
        elif entry.name.startswith("mmcblk"):
            kind = "sd"
        elif "/usb" in str(device):
            kind = "usb"
        else:
            kind = "other"
        vendor = read_text(device / "vendor") if kind == "usb" else None
        name = read_text(device / "model") or read_text(device / "name") or ""
        disks.append(
            Disk(
                path=Path("/dev") / entry.name,
                kind=kind,
                size_bytes=int(size) * SECTOR_BYTES,
                model=" ".join(word for word in (vendor, name) if word),
                serial=_read_usb_serial(device) if kind == "usb" else read_text(device / "serial") or "",
                removable=read_text(entry / "removable") == "1",
                wwn=_read_wwn(entry, device),
            )
        )
    return tuple(disks)


def _read_wwn(entry: Path, device: Path) -> str:
    """The world-wide name that the kernel shows; a card's CID, which holds maker, date and number."""
    return read_text(entry / "wwid") or read_text(device / "wwid") or read_text(device / "cid") or ""


def _read_usb_serial(device: Path) -> str:
    """The serial of the USB device that a SCSI disk hangs below: the nearest parent directory that has the
    file."""
    for parent in device.parents:
        serial = read_text(parent / "serial")
        if serial:
            return serial
        if parent.name.startswith("usb") or parent == parent.parent:
            break
    return ""


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []
