"""What stands in the ``base.json`` of a stock image, read from its disk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from imagebuilder.bases.base import BaseInfo, PartitionInfo
from imagebuilder.disk.ext4 import Ext4Volume
from imagebuilder.disk.source import open_source
from imagebuilder.disk.table import TableKind
from imagebuilder.inspect import ImageFacts, inspect_image

DPKG_STATUS: Final = "/var/lib/dpkg/status"
_FIELD: Final = re.compile(r"^(Package|Status|Version): (.*)$", re.MULTILINE)


def describe(disk: Path, base_id: str, name: str, sha256: str) -> BaseInfo:
    """Look at the raw image of a stock base.

    Raises:
        NotUnderstood: it is none that Bramble can work on; the message says what was found.
    """
    facts = inspect_image(disk)
    with open_source(disk) as source:
        root = Ext4Volume(source, facts.root.offset)
        packages = {}
        if root.find(DPKG_STATUS) is not None:
            packages = parse_dpkg_status(root.read(DPKG_STATUS).decode(errors="replace"))
    return BaseInfo(
        id=base_id,
        name=name,
        distribution=facts.system.distribution,
        suite=facts.system.release,
        architecture=facts.system.architecture,
        kernel_version=facts.kernel_version or next(iter(facts.module_versions), "unknown"),
        packages=packages,
        layout=tuple(_layout(facts)),
        size_bytes=facts.size_bytes,
        disk_signature=int(facts.table.disk_id, 16) if facts.table.kind is TableKind.MBR else 0,
        recipe={},
        built_with={},
        disk_sha256=sha256,
    )


def _layout(facts: ImageFacts) -> Iterator[PartitionInfo]:
    filesystems = {
        facts.boot.partition: ("vfat", facts.boot.label),
        facts.root.partition: ("ext4", facts.root.label),
    }
    for entry in facts.table.partitions:
        filesystem, label = filesystems.get(entry.number, ("", ""))
        yield PartitionInfo(
            number=entry.number,
            type=int(entry.type, 16) if facts.table.kind is TableKind.MBR else 0,
            start_lba=entry.start_lba,
            sectors=entry.sectors,
            filesystem=filesystem,
            label=label,
        )


def parse_dpkg_status(text: str) -> dict[str, str]:
    """Package → version of what is installed, from dpkg's status file."""
    packages = {}
    for paragraph in text.split("\n\n"):
        found = dict(_FIELD.findall(paragraph))
        if found.get("Status", "").endswith(" installed") and {"Package", "Version"} <= found.keys():
            packages[found["Package"]] = found["Version"]
    return packages
