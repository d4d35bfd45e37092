"""Make a clone's disk image: two filesystems, then the disk around them. Plain tools, no root, no mounts."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imagebuilder.bases import DEBIAN_TRIXIE, find_base
from imagebuilder.disk.mbr import Mbr, Partition, parse_mbr
from imagebuilder.disk.sparse import copy_range, data_runs
from imagebuilder.runner import run
from imagebuilder.store import Store
from stock_clones.plan import BootFiles, BootSources, ClonePlan, Layout
from stock_clones.raspios import BOOKWORM, TRIXIE
from stock_clones.tree import Tree
from stock_clones.ubuntu import JAMMY, NOBLE, RESOLUTE

KIND: Final = "stock-clones"
SECTOR: Final = 512
PLANS: Final = {plan.name: plan for plan in (TRIXIE, BOOKWORM, JAMMY, NOBLE, RESOLUTE)}
CLONES: Final = tuple(PLANS)
EXT4_TIME: Final = {"E2FSPROGS_FAKE_TIME": "1700000000"}
MTOOLS: Final = {"MTOOLS_SKIP_CHECK": "1", "MTOOLSRC": os.devnull, "SOURCE_DATE_EPOCH": "1700000000"}
KERNEL_FLAGS: Final = 24
"""Offset of the flags in an arm64 Image; bits 1–2 are the page size: 1 for 4 KiB, 2 for 16 KiB.
Source: Linux, Documentation/arch/arm64/booting.rst."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clone:
    """A finished clone in the store; nobody writes to ``disk``."""

    name: str
    file_name: str
    disk: Path
    layout: Layout


def make_clone(name: str, store: Store) -> Clone:
    """The clone of a stock image, out of the store or made now from the debian-trixie base.

    Raises:
        LookupError: the base is not in the store (``bramble base build debian-trixie``).
    """
    plan = PLANS[name]
    base = find_base(DEBIAN_TRIXIE.name, store)
    if base is None:
        raise LookupError("the clones are made from the base: bramble base build debian-trixie")
    source = base.disk
    entry_id = f"{name}-{_content_id(base.content_id)}"
    entry = store.get_or_create(KIND, entry_id, lambda into: _make(plan, source, into))
    return Clone(name=name, file_name=plan.file_name, disk=entry / "disk.img", layout=plan.layout)


def _content_id(base_id: str) -> str:
    digest = hashlib.sha256(base_id.encode())
    for path in sorted(Path(__file__).parent.rglob("*")):
        if path.suffix in (".py", ".sh"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _make(plan: ClonePlan, base: Path, into: Path) -> None:
    work = into / "work"
    work.mkdir()
    with base.open("rb") as file:
        table = parse_mbr(file.read(SECTOR))
    boot, root = table.partition(1), table.partition(2)
    root_volume, boot_volume = work / "root.ext4", work / "boot.fat"
    copy_range(base, root_volume, root.offset, root.size_bytes)
    _make_root(plan, root_volume, work)
    _make_boot(plan, _boot_sources(base, boot.offset, work / "base"), boot_volume, work)
    _assemble(plan.layout, boot_volume, root_volume, into / "disk.img")
    shutil.rmtree(work)


def _make_root(plan: ClonePlan, volume: Path, work: Path) -> None:
    layout = plan.layout
    scratch = work / "tree"
    scratch.mkdir()
    tree = Tree(volume, scratch)
    plan.root(layout, tree)
    tree.write()
    _e2fsck(volume, "-fy")
    size = layout.root_sectors * SECTOR
    if layout.ext4_64bit:
        os.truncate(volume, max(size, volume.stat().st_size))
        run(["resize2fs", "-b", volume], env=EXT4_TIME)
    os.truncate(volume, max(size, volume.stat().st_size))
    run(["resize2fs", volume, f"{size // 4096}"], env=EXT4_TIME)
    os.truncate(volume, size)
    words = ["-L", layout.ext4_label]
    if layout.ext4_features:
        words += ["-O", layout.ext4_features]
    run(["tune2fs", *words, volume], env=EXT4_TIME)
    _e2fsck(volume, "-fy")
    run(["tune2fs", "-f", "-U", str(uuid.uuid5(uuid.NAMESPACE_DNS, plan.name)), volume], env=EXT4_TIME)
    _e2fsck(volume, "-fn")


def _boot_sources(base: Path, offset: int, target: Path) -> BootSources:
    target.mkdir()
    run(["mcopy", "-s", "-n", "-i", f"{base}@@{offset}", "::/*", target], env=MTOOLS)
    raw = (target / "kernel8.img").read_bytes()
    packed = {}
    for name, pages in (("kernel-4k", 1), ("kernel-16k", 2)):
        flags = struct.unpack_from("<Q", raw, KERNEL_FLAGS)[0] & ~0b110 | pages << 1
        image = raw[:KERNEL_FLAGS] + struct.pack("<Q", flags) + raw[KERNEL_FLAGS + 8 :]
        packed[name] = target / name
        packed[name].write_bytes(gzip.compress(image, compresslevel=1, mtime=0))
    firmware = {path.name: path for path in target.iterdir() if path.suffix in (".dtb", ".elf", ".dat")}
    overlays = {path.name: path.read_bytes() for path in (target / "overlays").glob("*") if path.is_file()}
    return BootSources(
        firmware=firmware,
        kernel=packed["kernel-4k"],
        kernel_16k=packed["kernel-16k"],
        initramfs=target / "initramfs8",
        overlays=overlays,
    )


def _make_boot(plan: ClonePlan, sources: BootSources, volume: Path, work: Path) -> None:
    layout = plan.layout
    staged = work / "staged"
    _stage(plan.boot(layout, sources), staged)
    for tree in staged.rglob("*.dtb"):
        run(["fdtput", "-t", "s", tree, "/chosen", "bootargs", plan.bootargs])
    volume.touch()
    os.truncate(volume, layout.boot_sectors * SECTOR)
    cluster = [] if layout.cluster_sectors is None else ["-s", str(layout.cluster_sectors)]
    serial = hashlib.sha256(plan.name.encode()).hexdigest()[:8]
    run(["mkfs.vfat", "--invariant", "-F", "32", *cluster, "-n", layout.fat_label, "-i", serial, volume])
    for path in sorted(staged.rglob("*")):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    run(["mcopy", "-s", "-p", "-m", "-i", volume, *sorted(staged.iterdir()), "::/"], env=MTOOLS)


def _stage(files: BootFiles, target: Path) -> None:
    for name, content in files.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            shutil.copyfile(content, path)


def _assemble(layout: Layout, boot_volume: Path, root_volume: Path, disk: Path) -> None:
    boot = Partition(
        start_lba=layout.boot_start, sectors=layout.boot_sectors, type=0x0C, bootable=layout.boot_active
    )
    root = Partition(start_lba=layout.root_start, sectors=layout.root_sectors, type=0x83)
    with disk.open("xb") as file:
        file.write(Mbr(signature=layout.signature, entries=(boot, root, None, None)).encode())
        file.truncate(layout.disk_sectors * SECTOR)
    for volume, offset in ((boot_volume, boot.offset), (root_volume, root.offset)):
        _copy_into(volume, disk, offset)


def _copy_into(source: Path, disk: Path, offset: int) -> None:
    """Copy what is not a hole or zero."""
    with source.open("rb") as reader, disk.open("r+b") as writer:
        for start, end in data_runs(reader.fileno(), 0, source.stat().st_size):
            for at in range(start, end, 1 << 20):
                piece = os.pread(reader.fileno(), min(1 << 20, end - at), at)
                if piece.strip(b"\0"):
                    os.pwrite(writer.fileno(), piece, offset + at)


def _e2fsck(volume: Path, mode: str) -> None:
    done = run(["e2fsck", mode, volume], check=False, env={**EXT4_TIME, "E2FSCK_TIME": "1700000000"})
    allowed = (0, 1) if mode == "-fy" else (0,)
    assert done.returncode in allowed, (done.stdout + done.stderr).decode(errors="replace")
