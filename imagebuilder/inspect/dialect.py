"""Which first-boot dialect an image speaks: a decision over what lies on its two filesystems. Pure.

File names of images say nothing reliable, and writing the settings in the wrong dialect fails without a word
(rpi-imager#1189, #1330, #1444), so what decides is the machinery that would read them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from imagebuilder.disk.ext4 import Ext4Volume
from imagebuilder.errors import NotUnderstood
from imagebuilder.inspect.facts import Dialect, SystemFacts

CLOUD_INIT: Final = ("/usr/bin/cloud-init",)
CLOUD_INIT_OFF: Final = "/etc/cloud/cloud-init.disabled"
RASPIOS_MARKS: Final = ("/etc/rpi-issue", "/usr/lib/raspberrypi-sys-mods")
SYS_MODS_FIRSTBOOT: Final = "/usr/lib/raspberrypi-sys-mods/firstboot"
SYS_MODS_IMAGER: Final = "/usr/lib/raspberrypi-sys-mods/imager_custom"
UNIT_DIRECTORIES: Final = ("/usr/lib/systemd/system", "/etc/systemd/system")
PRESEED_FILE: Final = b"rpi-preseed.toml"

_ASSIGNMENT: Final = re.compile(r"""([A-Z_]+)=(?:"([^"]*)"|'([^']*)'|(\S*))""")
_ARCHITECTURE: Final = re.compile(r"^Architecture: (\S+)$", re.M)
_DPKG_STANZA: Final = re.compile(r"^Package: (?:libc6|dpkg)\n(?:.+\n)*", re.M)
_ELF_MACHINES: Final = {183: "arm64", 40: "armhf", 62: "amd64", 3: "i386", 243: "riscv64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """What the decision rests on."""

    os_id: str
    is_raspios: bool
    has_cloud_init: bool
    cloud_init_off: bool
    has_sys_mods_firstboot: bool
    has_preseed_units: bool


def decide_dialect(marks: Marks) -> Dialect:
    """The dialect.

    Raises:
        NotUnderstood: nothing on the image would apply settings, or the distribution is not one of ours.
    """
    cloud_init = marks.has_cloud_init and not marks.cloud_init_off
    match (marks.os_id, marks.is_raspios, cloud_init):
        case ("ubuntu", _, True):
            return Dialect.UBUNTU
        case (_, True, True):
            return Dialect.RASPIOS_TRIXIE
        case (_, True, False) if marks.has_preseed_units:
            return Dialect.RPI_PRESEED
        case (_, True, False) if marks.has_sys_mods_firstboot:
            return Dialect.RASPIOS_BOOKWORM
        case ("debian", False, True):
            return Dialect.DEBIAN
    found = [
        f"os-release says {marks.os_id or 'nothing'!r}",
        "Raspberry Pi OS" if marks.is_raspios else "no marks of Raspberry Pi OS",
        "cloud-init" if cloud_init else "cloud-init, disabled" if marks.has_cloud_init else "no cloud-init",
        "the first-boot program of raspberrypi-sys-mods" if marks.has_sys_mods_firstboot else "no firstboot",
    ]
    raise NotUnderstood(
        f"nothing that Bramble knows would apply settings at this image's first boot (found: "
        f"{'; '.join(found)})",
        "Use Raspberry Pi OS bookworm or trixie, Ubuntu 22.04 or newer, or the base debian-trixie.",
    )


def read_marks(root: Ext4Volume, os_release: Mapping[str, str]) -> Marks:
    """Look at a root filesystem."""
    return Marks(
        os_id=os_release.get("ID", ""),
        is_raspios=any(root.find(path) for path in RASPIOS_MARKS) or os_release.get("ID") == "raspbian",
        has_cloud_init=any(root.find(path) for path in CLOUD_INIT),
        cloud_init_off=root.find(CLOUD_INIT_OFF) is not None,
        has_sys_mods_firstboot=any(root.find(path) for path in (SYS_MODS_FIRSTBOOT, SYS_MODS_IMAGER)),
        has_preseed_units=_has_preseed_units(root),
    )


def read_system(root: Ext4Volume, os_release: Mapping[str, str]) -> SystemFacts:
    """Distribution and release of a root filesystem."""
    raspios = any(root.find(path) for path in RASPIOS_MARKS)
    return SystemFacts(
        distribution="raspios" if raspios else os_release.get("ID", "unknown"),
        release=os_release.get("VERSION_CODENAME", "unknown"),
        version=os_release.get("VERSION_ID", ""),
        title=os_release.get("PRETTY_NAME", os_release.get("NAME", "unknown")),
        architecture=_architecture(root),
    )


def read_os_release(root: Ext4Volume) -> dict[str, str]:
    """The assignments of os-release.

    Raises:
        NotUnderstood: the filesystem has none.
    """
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        inode = root.find(path)
        if inode is not None and inode.is_file:
            return parse_os_release(root.read_inode(inode).decode("utf-8", "replace"))
    raise NotUnderstood(
        f"the ext4 filesystem at byte {root.offset} has no /etc/os-release: it holds no Linux system",
        "Take the image of an operating system for the Raspberry Pi.",
    )


def parse_os_release(text: str) -> dict[str, str]:
    """NAME → value; lines that are no assignment are skipped."""
    found = (_ASSIGNMENT.fullmatch(line.strip()) for line in text.splitlines())
    return {match[1]: next(filter(None, match.groups()[1:]), "") for match in found if match}


def _architecture(root: Ext4Volume) -> str:
    """What dpkg says of libc6; without dpkg, what a program of the system is made for."""
    status = root.find("/var/lib/dpkg/status")
    if status is not None and status.is_file:
        text = root.read_inode(status).decode("utf-8", "replace")
        stanza = _DPKG_STANZA.search(text)
        found = _ARCHITECTURE.search(stanza.group()) if stanza else None
        if found:
            return found.group(1)
    for path in ("/usr/bin/dash", "/usr/bin/bash", "/usr/bin/python3"):
        inode = root.find(path)
        if inode is not None and inode.is_file:
            head = next(root.iter_content(inode, 64), b"")
            if head[:4] == b"\x7fELF":
                return _ELF_MACHINES.get(int.from_bytes(head[18:20], "little"), "unknown")
    return "unknown"


def _has_preseed_units(root: Ext4Volume) -> bool:
    for directory in UNIT_DIRECTORIES:
        found = root.find(directory)
        if found is None or not found.is_directory:
            continue
        for name in root.list_directory(found):
            if not name.startswith("rpi-") or not name.endswith(".service"):
                continue
            unit = root.find(f"{directory}/{name}")
            if unit is not None and unit.is_file and PRESEED_FILE in root.read_inode(unit):
                return True
    return False
