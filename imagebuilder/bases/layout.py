"""Lay a root tree out as the disk that Raspberry Pi OS trixie has: MBR, FAT32 ``bootfs``, ext4 ``rootfs``.

Works on files alone: the FAT is filled through mtools and the ext4 by mke2fs, both at an offset of the disk
image, so neither loop devices nor mounts are needed. Owners in the tree are those of the sandbox, hence the
tools that read it run there. Everything that is random in a filesystem (serial numbers, UUIDs, hash seeds,
times) is derived from the base's id.
"""

from __future__ import annotations

import hashlib
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imagebuilder.disk.mbr import SECTOR_BYTES, Mbr, raspios_layout, raspios_root_bytes
from imagebuilder.disk.sparse import copy_range
from imagebuilder.errors import NotUnderstood
from imagebuilder.runner import require_tools, run
from imagebuilder.sandbox import sandboxed
from imagebuilder.store import require_room

LAYOUT_TOOLS: Final = ("mke2fs", "e2fsck", "mkfs.vfat", "fsck.vfat", "mcopy")
BOOT_LABEL: Final = "bootfs"
ROOT_LABEL: Final = "rootfs"
FAT_SECTORS_PER_CLUSTER: Final = 1
"""As Raspberry Pi OS since 2026-03-27 (pi-gen 46c69572). Filling it through mtools takes 0.5 s per 40 MB."""

EXT4_FEATURES: Final = "^64bit,^huge_file,orphan_file,metadata_csum_seed"
"""What Raspberry Pi OS trixie has. orphan_file needs e2fsprogs 1.47 wherever the image is edited."""

_FSTAB: Final = """\
proc            /proc           proc    defaults          0       0
PARTUUID={boot}  /boot/firmware  vfat    defaults          0       2
PARTUUID={root}  /               ext4    defaults,noatime  0       1
"""
_CMDLINE: Final = (
    "console=serial0,115200 console=tty1 root=PARTUUID={root} rootfstype=ext4 fsck.repair=yes rootwait\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskIdentity:
    """Everything about a disk that tools would choose at random, derived from one seed."""

    signature: int
    fat_serial: int
    root_uuid: uuid.UUID
    hash_seed: uuid.UUID
    epoch: int

    def environment(self) -> Mapping[str, str]:
        """Variables that make the filesystem tools use ``epoch`` as the time."""
        return {"SOURCE_DATE_EPOCH": str(self.epoch), "E2FSPROGS_FAKE_TIME": str(self.epoch), "TZ": "UTC"}


def disk_identity(seed: str, epoch: int) -> DiskIdentity:
    """The identity of the disk of base ``seed``.

    Args:
        seed: the base's id.
        epoch: seconds since 1970 that count as "now" in its filesystems.
    """

    def digest(what: str) -> bytes:
        return hashlib.sha256(f"{what}:{seed}".encode()).digest()

    return DiskIdentity(
        # A signature of 0 counts as "none" for the kernel: no PARTUUIDs would come from it.
        signature=int.from_bytes(digest("signature")[:4], "little") or 1,
        fat_serial=int.from_bytes(digest("fat")[:4], "little"),
        root_uuid=uuid.UUID(bytes=digest("root")[:16], version=4),
        hash_seed=uuid.UUID(bytes=digest("hash-seed")[:16], version=4),
        epoch=epoch,
    )


def render_fstab(mbr: Mbr) -> str:
    return _FSTAB.format(boot=mbr.partuuid(1), root=mbr.partuuid(2))


def render_cmdline(mbr: Mbr) -> str:
    """One line: the firmware ignores what follows the first newline."""
    return _CMDLINE.format(root=mbr.partuuid(2))


def lay_out(tree: Path, boot_tree: Path, disk: Path, identity: DiskIdentity) -> Mbr:
    """Write ``disk`` from a root tree and a directory with the boot partition's files.

    Args:
        tree: the root filesystem, made in the sandbox; its ``/boot/firmware`` is an empty directory. Gets its
            /etc/fstab here.
        boot_tree: files of the boot partition. Gets its cmdline.txt here.
        disk: file to make, sparse.
        identity: what must not be random.

    Raises:
        NoSpace: the disk does not fit its filesystem.
        NotUnderstood: a filesystem check found something wrong in what was made.
        CommandFailed, MissingTool
    """
    require_tools(*LAYOUT_TOOLS)
    used_bytes = _used_bytes(tree)
    mbr = raspios_layout(identity.signature, raspios_root_bytes(used_bytes))
    require_room(disk, used_bytes + _used_bytes(boot_tree) + 64 * 2**20)
    _write_in_tree(tree / "etc/fstab", render_fstab(mbr))
    _write_in_tree(boot_tree / "cmdline.txt", render_cmdline(mbr))
    with disk.open("xb") as file:
        root = mbr.partition(2)
        file.truncate(root.offset + root.size_bytes)
        file.write(mbr.encode())
    _make_boot(mbr, boot_tree, disk, identity)
    _make_root(mbr, tree, disk, identity)
    check_filesystems(mbr, disk)
    return mbr


def check_filesystems(mbr: Mbr, disk: Path) -> None:
    """Raise ``NotUnderstood`` unless both filesystems of the disk are clean. Changes nothing."""
    root = run(["e2fsck", "-f", "-n", f"{disk}?offset={mbr.partition(2).offset}"], check=False)
    if root.returncode != 0:
        raise _unclean(disk, "root partition", "e2fsck", root.stdout + root.stderr)
    # fsck.vfat knows no offsets. A sparse copy of the partition costs what is in it, not its 512 MiB.
    boot = mbr.partition(1)
    with tempfile.TemporaryDirectory(prefix="bramble-") as scratch:
        copy = Path(scratch) / "bootfs"
        copy_range(disk, copy, boot.offset, boot.size_bytes)
        fat = run(["fsck.vfat", "-n", copy], check=False)
    if fat.returncode != 0:
        raise _unclean(disk, "boot partition", "fsck.vfat", fat.stdout + fat.stderr)


def _make_boot(mbr: Mbr, boot_tree: Path, disk: Path, identity: DiskIdentity) -> None:
    boot = mbr.partition(1)
    run(
        [
            *("mkfs.vfat", "--invariant", "-F", "32", "-s", str(FAT_SECTORS_PER_CLUSTER), "-n", BOOT_LABEL),
            *("-i", f"{identity.fat_serial:08x}", "--offset", str(boot.start_lba)),
            *(disk, str(boot.sectors * SECTOR_BYTES // 1024)),
        ],
        env=identity.environment(),
    )
    # mtools takes entries in the order given: sorted, so that the directory is the same each time.
    top = sorted(boot_tree.iterdir())
    run(
        ["mcopy", "-i", f"{disk}@@{boot.offset}", "-s", "-p", "-Q", *top, "::/"],
        env={**identity.environment(), "MTOOLS_SKIP_CHECK": "1"},
    )


def _make_root(mbr: Mbr, tree: Path, disk: Path, identity: DiskIdentity) -> None:
    root = mbr.partition(2)
    # Inode tables that were never written are zero in a sparse file anyway; left lazy, they stay unmapped.
    extended = f"offset={root.offset},hash_seed={identity.hash_seed},root_owner=0:0,lazy_itable_init=1"
    run(
        sandboxed(
            [
                *("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", ROOT_LABEL, "-O", EXT4_FEATURES),
                *("-U", str(identity.root_uuid), "-d", str(tree), "-E", extended),
                *(str(disk), f"{root.size_bytes // 1024}k"),
            ],
            arm64=False,
        ),
        env=identity.environment(),
    )


def _used_bytes(tree: Path) -> int:
    """What the tree's files occupy in 4 KiB blocks; counted in the sandbox, which may look everywhere."""
    counted = run(sandboxed(["du", "--summarize", "--block-size=4096", str(tree)], arm64=False)).stdout
    return int(counted.split()[0]) * 4096


def _write_in_tree(path: Path, text: str) -> None:
    run(sandboxed(["tee", str(path)], arm64=False), input=text.encode())


def _unclean(disk: Path, part: str, tool: str, output: bytes) -> NotUnderstood:
    words = "\n".join(output.decode(errors="replace").splitlines()[-20:])
    return NotUnderstood(
        f"{disk}: the {part} is not clean, {tool} says:\n{words}",
        "This is a fault in how the image was made, not in your settings; please report it with these lines.",
    )
