"""What stands in the ``base.json`` of a stock image, read from its disk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from imagebuilder.bases.base import BaseInfo, PartitionInfo
from imagebuilder.disk.blockmap import BOOT_PARTITION, ROOT_PARTITION
from imagebuilder.disk.ext4 import Ext4Volume
from imagebuilder.disk.mbr import MBR_BYTES, parse_mbr
from imagebuilder.disk.source import open_source

DPKG_STATUS: Final = "/var/lib/dpkg/status"
_FIELD: Final = re.compile(r"^(Package|Status|Version): (.*)$", re.MULTILINE)


def describe(disk: Path, base_id: str, name: str, sha256: str) -> BaseInfo:
    """Look at the raw image of a stock base.

    Raises:
        NotUnderstood: it is none that Bramble can work on; the message says what was found.
    """
    size = disk.stat().st_size
    with open_source(disk) as source:
        table = parse_mbr(source.read_at(0, MBR_BYTES), disk_bytes=size)
        root = Ext4Volume(source, table.partition(ROOT_PARTITION).offset)
        release = parse_os_release(root.read("/etc/os-release").decode(errors="replace"))
        kernels = sorted(root.list_directory(root.require("/usr/lib/modules")))
        packages = {}
        if root.find(DPKG_STATUS) is not None:
            packages = parse_dpkg_status(root.read(DPKG_STATUS).decode(errors="replace"))
    filesystems = {BOOT_PARTITION: "vfat", ROOT_PARTITION: "ext4"}
    return BaseInfo(
        id=base_id,
        name=name,
        distribution=release.get("ID", "unknown"),
        suite=release.get("VERSION_CODENAME", "unknown"),
        architecture="arm64",
        kernel_version=kernels[-1] if kernels else "unknown",
        packages=packages,
        layout=tuple(
            PartitionInfo(
                number=number,
                type=part.type,
                start_lba=part.start_lba,
                sectors=part.sectors,
                filesystem=filesystems.get(number, ""),
                label="",
            )
            for number, part in table.partitions
        ),
        size_bytes=size,
        disk_signature=table.signature,
        recipe={},
        built_with={},
        disk_sha256=sha256,
    )


def parse_os_release(text: str) -> dict[str, str]:
    """The assignments of an os-release file, without quotes."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}


def parse_dpkg_status(text: str) -> dict[str, str]:
    """Package → version of what is installed, from dpkg's status file."""
    packages = {}
    for paragraph in text.split("\n\n"):
        found = dict(_FIELD.findall(paragraph))
        if found.get("Status", "").endswith(" installed") and {"Package", "Version"} <= found.keys():
            packages[found["Package"]] = found["Version"]
    return packages
