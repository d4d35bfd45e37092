"""Look at an image: partitions by role, filesystems, installed system, dialect, what each board would load.

Everything is found from the content. What cannot be understood is an error that names what was found and at
which byte. Reads only.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from fleet.boards import BoardModel
from imagebuilder.disk.ext4 import Ext4Volume
from imagebuilder.disk.ext4_layout import MAGIC, SUPERBLOCK_OFFSET
from imagebuilder.disk.fat import FatVolume
from imagebuilder.disk.source import ByteSource, open_source
from imagebuilder.disk.table import PartitionTable, TableEntry, read_table
from imagebuilder.errors import NotUnderstood
from imagebuilder.inspect.boards import BootFiles, describe_board
from imagebuilder.inspect.dialect import decide_dialect, read_marks, read_os_release, read_system
from imagebuilder.inspect.facts import (
    Ext4Facts,
    FatFacts,
    ImageFacts,
    KernelFacts,
    RootReference,
)
from imagebuilder.inspect.kernel import KernelError, parse_kernel

SEED_FILES: Final = (
    "custom.toml",
    "firstrun.sh",
    "meta-data",
    "network-config",
    "rpi-preseed.toml",
    "ssh",
    "ssh.txt",
    "user-data",
    "userconf.txt",
    "vendor-data",
)
ARM64: Final = "arm64"
MIN_BYTES: Final = 2**20

_PACKED: Final = (
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "zip"),
    (b"BZh", "bzip2"),
)
_ROOT_WORD: Final = re.compile(r"(?:^|\s)root=(\S+)")


class ImageNotUnderstood(NotUnderstood):
    """An image that Bramble cannot work on; the message names what it is."""


def inspect_image(path: Path) -> ImageFacts:
    """All facts of the raw image at ``path``.

    Raises:
        NotUnderstood: it is no image of a known system, or is damaged; the message says where.
    """
    size = path.stat().st_size
    with open_source(path) as source:
        try:
            return inspect_source(source, size)
        except NotUnderstood as exc:
            raise type(exc)(f"{path.name}: {exc.message}", exc.hint) from exc


def inspect_source(source: ByteSource, size_bytes: int) -> ImageFacts:
    """All facts of a disk of ``size_bytes``."""
    _require_raw(source, size_bytes)
    table = read_table(source, size_bytes)
    boot_entry, fat = _find_boot(source, table)
    root_entry, ext4 = _find_root(source, table)
    os_release = read_os_release(ext4)
    system = read_system(ext4, os_release)
    if system.architecture != ARM64:
        raise ImageNotUnderstood(
            f"the system on partition {root_entry.number} ({system.title}) is for {system.architecture}, "
            f"expected {ARM64}",
            "Take the 64-bit (arm64) edition of the image.",
        )
    files = _boot_files(fat)
    boards = tuple(describe_board(files, model) for model in BoardModel)
    tried = describe_board(files, BoardModel.PI4, tryboot=True)
    kernels = dict.fromkeys(board.kernel for board in boards if board.kernel)
    cmdlines = dict.fromkeys(board.cmdline for board in (*boards, tried) if board.cmdline)
    facts = ImageFacts(
        size_bytes=size_bytes,
        table=table,
        boot=FatFacts(
            partition=boot_entry.number,
            offset=boot_entry.offset,
            size_bytes=boot_entry.size_bytes,
            label=fat.label,
            serial=fat.serial,
            cluster_bytes=fat.cluster_bytes,
            free_bytes=fat.free_bytes,
            faults=fat.faults,
        ),
        root=Ext4Facts(
            partition=root_entry.number,
            offset=root_entry.offset,
            size_bytes=ext4.superblock.size_bytes,
            label=ext4.superblock.label,
            uuid=str(ext4.superblock.uuid),
            block_bytes=ext4.superblock.block_bytes,
            free_bytes=ext4.free_bytes,
            features=ext4.superblock.features,
        ),
        system=system,
        dialect=decide_dialect(read_marks(ext4, os_release)),
        os_prefix=boards[0].os_prefix,
        tryboot_prefix=tried.os_prefix if tried.os_prefix != boards[0].os_prefix else None,
        boards=boards,
        kernels=tuple(kernel for path in kernels if (kernel := files.kernel(path))),
        module_versions=_module_versions(ext4),
        cmdlines=tuple(cmdlines),
        references=tuple(_references(files, tuple(cmdlines), ext4, fat, table)),
        seed_files=tuple(name for name in SEED_FILES if files.exists(name)),
        python="/usr/bin/python3" if ext4.find("/usr/bin/python3") else None,
    )
    if not any(board.problem is None for board in boards):
        problems = "; ".join(dict.fromkeys(f"{board.model.value}: {board.problem}" for board in boards))
        raise ImageNotUnderstood(
            f"none of the boards that Bramble knows would boot from the FAT at byte {fat.offset} "
            f"({problems})",
            "Take an image for the Raspberry Pi 4 or 5; images for other machines lack their kernel.",
        )
    return facts


def _require_raw(source: ByteSource, size_bytes: int) -> None:
    head = source.read_at(0, min(size_bytes, 512))
    for magic, method in _PACKED:
        if head.startswith(magic):
            raise ImageNotUnderstood(
                f"the file is compressed with {method}, expected a raw disk image",
                f"Unpack it first, or let 'bramble base fetch' do that. ({method} -d, or unzip)",
            )
    if size_bytes < MIN_BYTES:
        raise ImageNotUnderstood(
            f"the file has {size_bytes} bytes, which holds no partition table and no filesystem",
            "The image is incomplete: a download or a write was interrupted. Fetch it again.",
        )
    if not head.strip(b"\0"):
        raise ImageNotUnderstood(
            "the first sector is empty: there is no partition table",
            "The image is incomplete: a download or a write was interrupted. Fetch it again.",
        )


def _find_boot(source: ByteSource, table: PartitionTable) -> tuple[TableEntry, FatVolume]:
    """The FAT that the firmware reads: the first with a config.txt."""
    seen = []
    for entry in table.partitions:
        head = source.read_at(entry.offset, 512)
        if head[510:] != b"\x55\xaa" or b"FAT" not in head[54:90]:
            seen.append(_describe(source, entry))
            continue
        volume = FatVolume(source, entry.offset)
        if volume.size_bytes > entry.size_bytes:
            raise ImageNotUnderstood(
                f"the FAT of partition {entry.number} at byte {entry.offset} has {volume.size_bytes} bytes, "
                f"its partition {entry.size_bytes}",
                "The partition table or the FAT is damaged; fetch the image again.",
            )
        found = volume.find("/config.txt")
        if found is not None and not found.is_directory:
            return entry, volume
        names = [item.path for item in volume.walk() if item.path.count("/") == 1]
        seen.append(
            f"{entry.number} at byte {entry.offset}: a FAT32 with {', '.join(names[:12]) or 'no files'}"
        )
    raise ImageNotUnderstood(
        f"no partition is a FAT32 with config.txt, from which a Raspberry Pi boots (partitions: "
        f"{'; '.join(seen) or 'none'})",
        "Take an image for the Raspberry Pi; images for UEFI machines are laid out in another way.",
    )


def _find_root(source: ByteSource, table: PartitionTable) -> tuple[TableEntry, Ext4Volume]:
    """The ext4 with an installed system."""
    seen, fault = [], None
    for entry in table.partitions:
        if not _has_ext_magic(source, entry):
            seen.append(_describe(source, entry))
            continue
        try:
            volume = Ext4Volume(source, entry.offset)
            if volume.superblock.size_bytes > entry.size_bytes:
                raise ImageNotUnderstood(
                    f"the filesystem has {volume.superblock.size_bytes} bytes, its partition "
                    f"{entry.size_bytes}",
                    "The image was cut short or its table is damaged; fetch it again.",
                )
            read_os_release(volume)
            return entry, volume
        except NotUnderstood as exc:
            fault = fault or type(exc)(
                f"partition {entry.number} at byte {entry.offset}: {exc.message}", exc.hint
            )
            seen.append(f"{entry.number} at byte {entry.offset}: an ext4")
    if fault is not None:
        raise fault
    raise ImageNotUnderstood(
        f"no partition holds an ext4 filesystem with a Linux system (partitions: "
        f"{'; '.join(seen) or 'none'})",
        "Take an image whose root is ext4: Raspberry Pi OS, Ubuntu or Debian.",
    )


def _has_ext_magic(source: ByteSource, entry: TableEntry) -> bool:
    at = SUPERBLOCK_OFFSET + 0x38
    if entry.size_bytes < SUPERBLOCK_OFFSET + 1024:
        return False
    return int.from_bytes(source.read_at(entry.offset + at, 2), "little") == MAGIC


def _describe(source: ByteSource, entry: TableEntry) -> str:
    head = source.read_at(entry.offset, min(entry.size_bytes, 512))
    if b"FAT" in head[54:90]:
        kind = f"a {head[54:62].decode('ascii', 'replace').strip() or 'FAT32'} volume"
    elif _has_ext_magic(source, entry):
        kind = "an ext4"
    elif head[:4] == b"hsqs":
        kind = "a squashfs"
    else:
        kind = f"unknown, starts with {head[:8].hex(' ')}"
    return f"{entry.number} (type {entry.type}) at byte {entry.offset}: {kind}"


def _boot_files(fat: FatVolume) -> BootFiles:
    @cache
    def names() -> dict[str, int]:
        return {
            entry.path.lstrip("/").casefold(): entry.size_bytes
            for entry in fat.walk()
            if not entry.is_directory
        }

    def exists(path: str) -> bool:
        return posixpath.normpath(path).casefold() in names()

    def read(path: str) -> str | None:
        return fat.read(f"/{path}").decode("utf-8", "replace") if exists(path) else None

    @cache
    def kernel(path: str) -> KernelFacts | None:
        if not exists(path):
            return None
        data = fat.read(f"/{path}")
        try:
            found = parse_kernel(data, path)
        except KernelError as exc:
            raise KernelError(f"{exc.message}; in the FAT at byte {fat.offset}", exc.hint) from exc
        return KernelFacts(
            path=path, version=found.version, page_bytes=found.page_bytes, size_bytes=len(data)
        )

    return BootFiles(config=read("config.txt") or "", exists=exists, read=read, kernel=kernel)


def _module_versions(root: Ext4Volume) -> tuple[str, ...]:
    directory = root.find("/lib/modules")
    if directory is None or not directory.is_directory:
        return ()
    return tuple(sorted(root.list_directory(directory)))


def _references(
    files: BootFiles, cmdlines: tuple[str, ...], root: Ext4Volume, fat: FatVolume, table: PartitionTable
) -> Iterator[RootReference]:
    def leads_to(name: str) -> int | None:
        kind, _, value = name.partition("=")
        for entry in table.partitions:
            labels = {root.offset: root.superblock.label, fat.offset: fat.label}
            uuids = {
                root.offset: str(root.superblock.uuid),
                fat.offset: f"{fat.serial >> 16:04X}-{fat.serial & 0xFFFF:04X}",
            }
            known = {"PARTUUID": entry.partuuid, "UUID": uuids.get(entry.offset)}.get(kind)
            if known is not None and known.casefold() == value.casefold():
                return entry.number
            if kind == "LABEL" and labels.get(entry.offset, "").casefold() == value.casefold():
                return entry.number
        return None

    for path in cmdlines:
        first_line = (files.read(path) or "").removeprefix("\ufeff").split("\n", 1)[0]
        for match in _ROOT_WORD.finditer(first_line):
            yield RootReference(place=path, mount="/", names=match[1], partition=leads_to(match[1]))
    inode = root.find("/etc/fstab")
    text = root.read_inode(inode).decode("utf-8", "replace") if inode and inode.is_file else ""
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and not words[0].startswith("#") and words[1] in ("/", "/boot/firmware", "/boot"):
            yield RootReference(
                place="/etc/fstab", mount=words[1], names=words[0], partition=leads_to(words[0])
            )
