"""Changes to a disk image without root, loop devices or mounts, each read back.

The FAT is written by mtools at a byte offset, the ext4 by one debugfs session at ``image?offset=BYTES``.
Neither is trusted: debugfs exits 0 on a full filesystem and leaves a file whose blocks are missing (measured,
e2fsprogs 1.47.0), so room is computed before writing, every line on its stderr is an error, and every file is
read back through our own readers and compared.

Owns: the image file while it is edited. Times and owners are fixed, so the same edits give the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import shutil
import stat
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from imagebuilder.disk.blockmap import BOOT_PARTITION, ROOT_PARTITION
from imagebuilder.disk.debugfs import needed_bytes, session_commands
from imagebuilder.disk.edits import (
    EPOCH,
    PutBootFile,
    PutDirectory,
    PutFile,
    PutLink,
    RootEdit,
    Written,
    checked_path,
    iter_content,
)
from imagebuilder.disk.ext4 import Ext4Volume
from imagebuilder.disk.fat import INFO_FREE_AT, FatVolume
from imagebuilder.disk.mbr import MBR_BYTES, PI_ALIGNMENT_BYTES, SECTOR_BYTES, Mbr, Partition, parse_mbr
from imagebuilder.disk.source import open_source
from imagebuilder.disk.sparse import copy_range
from imagebuilder.errors import CommandFailed, ImageBuilderError
from imagebuilder.runner import run

ENVIRONMENT: Final = {
    "E2FSCK_TIME": str(EPOCH),
    "E2FSPROGS_FAKE_TIME": str(EPOCH),
    "MTOOLSRC": "/dev/null",
    "SOURCE_DATE_EPOCH": str(EPOCH),
    "TZ": "UTC",
}


GPT_SECTORS: Final = 34
"""Protective MBR, header and 128 entries."""

E2FSCK_FINDINGS: Final = 0b111
"""Bits of its exit code that say what is on the disk; the others are troubles of its own (e2fsck(8))."""

_BANNER: Final = re.compile(r"debugfs \d+\.\d+")


class ImageFull(ImageBuilderError):
    """A partition has less room than the files that are about to be written; nothing was written."""

    def __init__(self, partition: str, needed_bytes: int, available_bytes: int) -> None:
        self.needed_bytes = needed_bytes
        self.available_bytes = available_bytes
        super().__init__(
            f"the image's {partition} partition has {available_bytes} bytes free, {needed_bytes} are needed",
            "Add less to it (overlays, airgap images), or use a base with a larger partition.",
        )


class ReadBackFailed(ImageBuilderError):
    """What is on the image is not what was written."""

    def __init__(self, path: str, expected: str, found: str) -> None:
        self.path = path
        super().__init__(
            f"{path}: reading it back from the image gives {found}, written was {expected}",
            "The image was not kept. The disk under the store may be failing, or e2fsprogs is too old.",
        )


class DiskImage:
    """A raw disk image that is being edited; ``scratch`` is an empty directory for temporary files."""

    def __init__(self, path: Path, scratch: Path) -> None:
        self.path = path
        self.scratch = scratch

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size

    def mbr(self) -> Mbr:
        with open_source(self.path) as source:
            return parse_mbr(source.read_at(0, MBR_BYTES), disk_bytes=self.size_bytes)

    def replace_table(self, mbr: Mbr, free_sectors: int) -> None:
        """Write an MBR and wipe what a GPT leaves: its copies in the first sectors and behind the partitions.

        Args:
            mbr: the new table; its partitions are those of the old one.
            free_sectors: sectors before the first partition.
        """
        end = max(partition.end_lba for _, partition in mbr.partitions) * SECTOR_BYTES
        with self.path.open("r+b") as file:
            file.write(mbr.encode() + bytes((min(free_sectors, GPT_SECTORS) - 1) * SECTOR_BYTES))
            file.truncate(end)

    def read_boot(self, path: str) -> bytes | None:
        """A file of the FAT, None if it is not there."""
        with open_source(self.path) as source:
            volume = FatVolume(source, self.mbr().partition(BOOT_PARTITION).offset)
            entry = volume.find(path)
            return volume.read(path) if entry is not None and not entry.is_directory else None

    def has_boot_directory(self, path: str) -> bool:
        """Whether the FAT has a directory of that path."""
        with open_source(self.path) as source:
            entry = FatVolume(source, self.mbr().partition(BOOT_PARTITION).offset).find(path)
            return entry is not None and entry.is_directory

    def read_root(self, path: str) -> bytes | None:
        """A file of the root filesystem, None if it is not there."""
        with open_source(self.path) as source:
            volume = Ext4Volume(source, self.mbr().partition(ROOT_PARTITION).offset)
            inode = volume.find(path)
            return volume.read_inode(inode) if inode is not None and inode.is_file else None

    def grow_root(self, free_bytes: int, *, clean: bool = False) -> None:
        """Make the root filesystem large enough that ``free_bytes`` are free; never shrinks it.

        Args:
            free_bytes: room for file contents and metadata.
            clean: e2fsck has found it free of faults, and nobody but this object has written to it since.
        """
        mbr = self.mbr()
        root = mbr.partition(ROOT_PARTITION)
        with open_source(self.path) as source:
            superblock = Ext4Volume(source, root.offset).superblock
        missing = free_bytes - superblock.free_blocks * superblock.block_bytes
        if missing <= 0:
            return
        # Each group that is added costs its bitmaps, its inode table and perhaps a copy of the descriptors.
        overhead = (
            superblock.inode_table_blocks + 3 + superblock.descriptor_blocks + superblock.reserved_gdt_blocks
        )
        missing = (
            missing * superblock.blocks_per_group // (superblock.blocks_per_group - overhead)
            + PI_ALIGNMENT_BYTES
        )
        # resize2fs takes the file for the filesystem, whatever the offset: it cuts a longer file down to the
        # new size and writes a byte at the end of a shorter one (1.47.0, resize/main.c). So the file gets
        # exactly that size first, for which the filesystem must grow by at least its offset; the room is
        # sparse and costs nothing.
        size = root.size_bytes + max(missing, root.offset)
        size = -(-size // PI_ALIGNMENT_BYTES) * PI_ALIGNMENT_BYTES
        grown = Partition(
            start_lba=root.start_lba, sectors=size // SECTOR_BYTES, type=root.type, bootable=root.bootable
        )
        if not clean:
            self._e2fsck(root, "-fy")
        os.truncate(self.path, grown.size_bytes)
        # -f: without it resize2fs wants to see the time of a check in the superblock.
        self._tool("resize2fs", *(["-f"] if clean else []), self._ext4_argument(root), f"{grown.sectors}s")
        os.truncate(self.path, grown.offset + grown.size_bytes)
        self._write_mbr(mbr.with_partition(ROOT_PARTITION, grown))
        with open_source(self.path) as source:
            volume = Ext4Volume(source, root.offset)
            if volume.free_bytes < free_bytes:
                raise ImageFull("root", free_bytes, volume.free_bytes)

    def _write_mbr(self, mbr: Mbr) -> None:
        with self.path.open("r+b") as file:
            file.write(mbr.encode())

    def put_boot(self, edits: Sequence[PutBootFile]) -> list[Written]:
        """Write files into the FAT and read them back."""
        if not edits:
            return []
        partition = self.mbr().partition(BOOT_PARTITION)
        with open_source(self.path) as source:
            volume = FatVolume(source, partition.offset)
            replaced = {edit.path: volume.find(edit.path) is not None for edit in edits}
            # mcopy deletes an old file before it writes, but let the old ones count as lost: it costs a few
            # KiB.
            needed = sum(volume.clusters_for(len(edit.content)) + 2 for edit in edits) * volume.cluster_bytes
            if volume.free_bytes < needed:
                raise ImageFull("boot", needed, volume.free_bytes)
            lies = volume.noted_free_clusters not in (None, volume.free_clusters)
        if lies:
            # mtools believes the note and says "Disk full" (4.0.32), or lets a later driver run out.
            with self.path.open("r+b") as file:
                file.seek(volume.info_offset + INFO_FREE_AT)
                file.write(struct.pack("<II", volume.free_clusters, 0xFFFF_FFFF))
        staged = self.scratch / "boot"
        for directory, group in _by_directory(edits):
            shutil.rmtree(staged, ignore_errors=True)
            staged.mkdir(parents=True)
            for edit in group:
                target = staged / posixpath.basename(edit.path)
                target.write_bytes(edit.content)
                os.utime(target, (EPOCH, EPOCH))
            files = [staged / posixpath.basename(edit.path) for edit in group]
            self._tool(
                "mcopy",
                "-i",
                f"{self.path.name}@@{partition.offset}",
                "-D",
                "o",
                "-m",
                *files,
                f"::{directory}",
            )
        shutil.rmtree(staged)
        written = []
        for edit in edits:
            found = self.read_boot(edit.path)
            expected = hashlib.sha256(edit.content).hexdigest()
            if found != edit.content:
                raise ReadBackFailed(f"boot:{edit.path}", expected, _digest_of(found))
            written.append(
                Written(
                    volume="boot",
                    path=edit.path,
                    mode=0o755,
                    uid=0,
                    gid=0,
                    size_bytes=len(edit.content),
                    sha256=expected,
                    target=None,
                    replaced=replaced[edit.path],
                )
            )
        return written

    def put_root(self, edits: Sequence[RootEdit]) -> list[Written]:
        """Write files, links and directories into the ext4 in one debugfs session and read them back."""
        return self.write_root(edits)()

    def write_root(self, edits: Sequence[RootEdit]) -> Callable[[], list[Written]]:
        """Write as ``put_root`` does, and return what reads it back: other things can go on beside that.

        Raises:
            ImageFull: there is no room; nothing was written.
            CommandFailed: debugfs complained. What is returned raises ``ReadBackFailed``.
        """
        if not edits:
            return list
        partition = self.mbr().partition(ROOT_PARTITION)
        with open_source(self.path) as source:
            volume = Ext4Volume(source, partition.offset)
            needed = needed_bytes(edits, volume.superblock.block_bytes)
            if volume.free_bytes < needed:
                raise ImageFull("root", needed, volume.free_bytes)
            staged = self.scratch / "root"
            shutil.rmtree(staged, ignore_errors=True)
            staged.mkdir(parents=True)
            replaced = {edit.path: volume.find(edit.path, follow=False) is not None for edit in edits}
            commands = list(session_commands(volume, edits, staged))
        self._debugfs(partition, commands)
        shutil.rmtree(staged)

        def read_back() -> list[Written]:
            with open_source(self.path) as source:
                volume = Ext4Volume(source, partition.offset)
                return [_read_back(volume, edit, replaced[edit.path]) for edit in edits]

        return read_back

    def edit_root(self, commands: Sequence[str]) -> None:
        """Give the root filesystem a debugfs session of the caller's own, who reads back what it did.

        Raises:
            CommandFailed: debugfs complained about any of it.
        """
        self._debugfs(self.mbr().partition(ROOT_PARTITION), commands)

    def check(self) -> None:
        """Let ``e2fsck -fn`` and ``fsck.vfat -n`` look for faults.

        Raises:
            CommandFailed: one of them found any.
        """
        mbr = self.mbr()
        self._e2fsck(mbr.partition(ROOT_PARTITION), "-fn")
        boot = mbr.partition(BOOT_PARTITION)
        # fsck.vfat knows no offsets, so it gets the partition alone: a sparse copy that lives as long as the
        # check.
        copy = self.scratch / "boot.fat"
        try:
            copy_range(self.path, copy, boot.offset, boot.size_bytes)
            self._tool("fsck.vfat", "-n", copy)
        finally:
            copy.unlink(missing_ok=True)

    def _e2fsck(self, root: Partition, mode: str) -> None:
        argv = ["e2fsck", mode, self._ext4_argument(root)]
        result = run(argv, env=ENVIRONMENT, cwd=self.path.parent, check=False)
        # Bit 0: faults corrected (with -y), which is what it was asked for. Anything else is a fault that
        # stays.
        if result.returncode & ~(1 if mode == "-fy" else 0):
            raise CommandFailed(
                argv,
                result.returncode,
                (result.stdout + result.stderr).decode(errors="replace"),
                hint="The root filesystem is damaged; fetch or build the base again.",
            )

    def _debugfs(self, partition: Partition, commands: Sequence[str]) -> None:
        script = self.scratch / "debugfs.commands"
        script.write_text(
            "".join(f"{command}\n" for command in commands), encoding="utf-8", errors="surrogateescape"
        )
        argv = ["debugfs", "-w", "-f", os.fspath(script), self._ext4_argument(partition)]
        result = run(argv, env=ENVIRONMENT, cwd=self.path.parent, timeout_s=1800)
        complaints = [
            line
            for line in result.stderr.decode(errors="replace").splitlines()
            if line and not _BANNER.match(line)
        ]
        if complaints:
            raise CommandFailed(
                argv,
                result.returncode,
                "\n".join(complaints),
                hint="debugfs could not do one of the edits; the image was not kept.",
            )
        script.unlink()

    def _ext4_argument(self, partition: Partition) -> str:
        # By name, from the image's directory: a '?' in the store's path would be read as the start of an
        # option.
        return f"{self.path.name}?offset={partition.offset}"

    def _tool(self, *argv: str | os.PathLike[str]) -> None:
        run(argv, env=ENVIRONMENT, cwd=self.path.parent)


def is_clean(disk: Path, root_offset: int) -> bool:
    """Whether ``e2fsck -fn`` finds nothing to mend on the ext4 at that byte of a disk image.

    Raises:
        CommandFailed: it did not come to an end.
    """
    argv = ["e2fsck", "-fn", f"{disk.name}?offset={root_offset}"]
    result = run(argv, env=ENVIRONMENT, cwd=disk.parent, check=False)
    if result.returncode & ~E2FSCK_FINDINGS:
        raise CommandFailed(argv, result.returncode, (result.stdout + result.stderr).decode(errors="replace"))
    return result.returncode == 0


def _read_back(volume: Ext4Volume, edit: RootEdit, replaced: bool) -> Written:
    inode = volume.find(edit.path, follow=isinstance(edit, PutDirectory))
    if inode is None:
        raise ReadBackFailed(edit.path, type(edit).__name__, "nothing")
    if isinstance(edit, PutLink):
        target = volume.read_link(inode) if inode.is_symlink else None
        if target != edit.target:
            raise ReadBackFailed(edit.path, f"a link to {edit.target}", f"{target!r}")
        return Written(
            volume="root",
            path=edit.path,
            mode=0o777,
            uid=inode.uid,
            gid=inode.gid,
            size_bytes=len(edit.target),
            sha256=None,
            target=edit.target,
            replaced=replaced,
        )
    kind = stat.S_IFDIR if isinstance(edit, PutDirectory) else stat.S_IFREG
    expected = (kind | edit.mode, edit.uid, edit.gid)
    found = (inode.mode, inode.uid, inode.gid)
    if found != expected:
        raise ReadBackFailed(edit.path, _describe(*expected), _describe(*found))
    sha256 = None
    if isinstance(edit, PutFile):
        sha256 = _hash(volume.iter_content(inode))
        wanted = edit.sha256 or _hash(iter_content(edit.content))
        if sha256 != wanted:
            raise ReadBackFailed(edit.path, f"sha256 {wanted}", f"sha256 {sha256}")
        xattrs = volume.attributes(inode)
        if any(xattrs.get(name) != value for name, value in edit.xattrs.items()):
            raise ReadBackFailed(edit.path, f"attributes {dict(edit.xattrs)}", f"{xattrs}")
    return Written(
        volume="root",
        path=edit.path,
        mode=edit.mode,
        uid=edit.uid,
        gid=edit.gid,
        size_bytes=inode.size_bytes if sha256 else 0,
        sha256=sha256,
        target=None,
        replaced=replaced,
    )


def _hash(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _digest_of(data: bytes | None) -> str:
    return "nothing" if data is None else f"sha256 {hashlib.sha256(data).hexdigest()}"


def _describe(mode: int, uid: int, gid: int) -> str:
    return f"mode {mode:o}, owner {uid}:{gid}"


def _by_directory(edits: Sequence[PutBootFile]) -> list[tuple[str, list[PutBootFile]]]:
    groups: dict[str, list[PutBootFile]] = {}
    for edit in edits:
        groups.setdefault(posixpath.dirname(checked_path(edit.path)) or "/", []).append(edit)
    return sorted(groups.items())
