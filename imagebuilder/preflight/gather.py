"""Read an image into evidence. The only module of the preflight that opens files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fleet.boards import BoardModel
from imagebuilder.disk.ext4 import Ext4Volume
from imagebuilder.disk.fat import FatVolume
from imagebuilder.disk.source import open_source
from imagebuilder.errors import NotUnderstood
from imagebuilder.inspect import inspect_source
from imagebuilder.preflight.devicetree import DeviceTreeError, read_bootargs
from imagebuilder.preflight.evidence import Entry, Evidence, Expected, Tree


@contextmanager
def open_evidence(
    path: Path, models: tuple[BoardModel, ...], expected: Expected | None = None
) -> Iterator[Evidence]:
    """The evidence of the raw image at ``path``; its files can be read as long as the block lasts.

    Raises:
        NotUnderstood: it is no image of a known system, or is damaged; the message says where.
    """
    size = path.stat().st_size
    with open_source(path) as source:
        try:
            facts = inspect_source(source, size)
        except NotUnderstood as exc:
            raise type(exc)(f"{path.name}: {exc.message}", exc.hint) from exc
        fat, ext4 = FatVolume(source, facts.boot.offset), Ext4Volume(source, facts.root.offset)
        boot = fat_tree(fat)
        wanted = dict.fromkeys(board.device_tree for board in facts.boards if board.device_tree)
        bootargs = {}
        for name in wanted:
            try:
                bootargs[name] = read_bootargs(boot.read(f"/{name}") or b"")
            except DeviceTreeError:
                bootargs[name] = ""
        yield Evidence(
            facts=facts,
            boot=boot,
            root=ext4_tree(ext4),
            bootargs=bootargs,
            models=models,
            expected=expected,
        )


def fat_tree(volume: FatVolume) -> Tree:
    """The FAT as the rules see it: every file has mode 0755."""

    def find(path: str, follow: bool) -> Entry | None:
        entry = volume.find(path)
        if entry is None:
            return None
        return Entry(mode=0o040755 if entry.is_directory else 0o100755, size_bytes=entry.size_bytes)

    def read(path: str) -> bytes | None:
        entry = volume.find(path)
        return volume.read(path) if entry is not None and not entry.is_directory else None

    def names(path: str) -> tuple[str, ...]:
        top = volume.find(path)
        if top is None or not top.is_directory:
            return ()
        depth = path.rstrip("/").count("/") + 1
        return tuple(
            sorted(
                entry.path.rpartition("/")[2] for entry in volume.walk(path) if entry.path.count("/") == depth
            )
        )

    return Tree(find=find, read=read, names=names)


def ext4_tree(volume: Ext4Volume) -> Tree:
    """The root filesystem as the rules see it."""

    def find(path: str, follow: bool) -> Entry | None:
        inode = volume.find(path, follow=follow)
        if inode is None:
            return None
        target = volume.read_link(inode) if inode.is_symlink else None
        return Entry(mode=inode.mode, size_bytes=inode.size_bytes, target=target)

    def read(path: str) -> bytes | None:
        inode = volume.find(path)
        return volume.read_inode(inode) if inode is not None and inode.is_file else None

    def names(path: str) -> tuple[str, ...]:
        inode = volume.find(path)
        return tuple(sorted(volume.list_directory(inode))) if inode and inode.is_directory else ()

    return Tree(find=find, read=read, names=names)
