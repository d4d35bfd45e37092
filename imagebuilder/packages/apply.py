"""Lay a package layer into an image: one debugfs session for the root, mtools for the boot partition.

Each entry is read back and compared: content, type, mode, owner, link, attributes. What the layer does not
name is not touched, so device nodes, identities and the layout of the base stay what they are.
"""

from __future__ import annotations

import hashlib
import posixpath
import shutil
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from imagebuilder.disk.edit import ENVIRONMENT, DiskImage, ImageFull, ReadBackFailed
from imagebuilder.disk.edits import PutBootFile, Written
from imagebuilder.disk.ext4 import Ext4Volume, Inode
from imagebuilder.packages.install import StoredLayer
from imagebuilder.packages.layer import BOOT_MOUNT, Entry, Layer, is_on_boot
from imagebuilder.packages.volumes import open_volumes
from imagebuilder.runner import run

BLOCK_BYTES: Final = 4096
EXTENT_ALLOWANCE: Final = 1.01


def layer_room_bytes(layer: Layer) -> int:
    """An upper bound of the room that the layer takes on the root filesystem."""
    blocks = sum(-(-entry.size_bytes // BLOCK_BYTES) + 2 for entry in layer.entries)
    return int(blocks * BLOCK_BYTES * EXTENT_ALLOWANCE)


def apply_layer(stored: StoredLayer, disk: DiskImage) -> list[Written]:
    """Put the layer into the image and return the record of it.

    Args:
        stored: the layer and its contents.
        disk: the image; its root has room for the layer (``layer_room_bytes``).

    Raises:
        ImageFull: there is no room; nothing was written.
        ReadBackFailed: what is on the image is not what the layer says.
        CommandFailed
    """
    layer = stored.layer
    replaced = _replaced(layer, disk)
    work = disk.scratch / "layer"
    work.mkdir()
    with open_volumes(disk.path) as volumes:
        volume = volumes.root
        needed = layer_room_bytes(layer)
        if volume.free_bytes < needed:
            raise ImageFull("root", needed, volume.free_bytes)
        commands = list(session(stored, volume, work))
    disk.edit_root(commands)
    shutil.rmtree(work)
    written = _apply_boot(stored, disk)
    with open_volumes(disk.path) as volumes:
        volume = volumes.root
        for path in layer.removed:
            if not is_on_boot(path) and volume.find(path, follow=False) is not None:
                raise ReadBackFailed(path, "its removal", "the path")
        entries = [entry for entry in layer.entries if not entry.is_on_boot]
        written.extend(_read_back(volume, entry, entry.path in replaced) for entry in entries)
    return written


def session(stored: StoredLayer, volume: Ext4Volume, work: Path) -> Iterator[str]:
    """The debugfs commands that put the layer into the filesystem as it is now."""
    layer = stored.layer
    for path in sorted(layer.removed, reverse=True):  # children before parents
        old = None if is_on_boot(path) else volume.find(path, follow=False)
        if old is not None:
            yield f'{"rmdir" if old.is_directory else "rm"} "{path}"'
    gone = set(layer.removed)
    names = Counter(entry.same_as for entry in layer.entries if entry.same_as is not None)
    for number, entry in enumerate(layer.entries):
        path = entry.path
        if entry.is_on_boot:
            continue
        old = None if path in gone else volume.find(path, follow=False)
        if old is not None and not (old.is_directory and entry.is_directory):
            yield f'{"rmdir" if old.is_directory else "rm"} "{path}"'
            old = None
        if entry.same_as is not None:
            yield f'ln "{entry.same_as}" "{path}"'
            continue
        yield from _made(entry, stored, make=old is None)
        yield f'sif "{path}" mode 0{entry.mode:o}'
        yield f'sif "{path}" uid {entry.uid}'
        yield f'sif "{path}" gid {entry.gid}'
        for name in ("atime", "ctime", "mtime", "crtime"):
            yield f'sif "{path}" {name} @{entry.mtime}'
        if path in names:
            yield f'sif "{path}" links_count {names[path] + 1}'
        for index, (name, value) in enumerate(sorted(entry.attributes.items())):
            host = work / f"{number}.{index}"
            host.write_bytes(value)
            yield f'ea_set -f "{host}" "{path}" {name}'


def _made(entry: Entry, stored: StoredLayer, *, make: bool) -> Iterator[str]:
    """The commands that make the entry's inode; 'write' and 'mkdir' take a name in the current directory."""
    directory, name = posixpath.split(entry.path)
    if entry.target is not None:
        yield f'cd "{directory}"'
        yield f'symlink "{name}" "{entry.target}"'
    elif entry.sha256 is not None:
        yield f'cd "{directory}"'
        yield f'write "{stored.content(entry.sha256).resolve()}" "{name}"'
    elif stat.S_ISFIFO(entry.mode):
        yield f'cd "{directory}"'
        yield f'mknod "{name}" p'
    elif make:
        yield f'cd "{directory}"'
        yield f'mkdir "{name}"'


def _apply_boot(stored: StoredLayer, disk: DiskImage) -> list[Written]:
    with open_volumes(disk.path) as volumes:
        image = f"{disk.path.name}@@{volumes.boot.offset}"

    def mtools(command: str, paths: Iterable[str]) -> None:
        if words := [f"::{path.removeprefix(BOOT_MOUNT)}" for path in paths]:
            run([command, "-i", image, *words], env=ENVIRONMENT, cwd=disk.path.parent)

    removed = [path for path in stored.layer.removed if is_on_boot(path)]
    mtools("mdel", (path for path in removed if disk.read_boot(path.removeprefix(BOOT_MOUNT)) is not None))
    entries = [entry for entry in stored.layer.entries if entry.is_on_boot and entry.path != BOOT_MOUNT]
    for entry in entries:
        if entry.is_directory and not disk.has_boot_directory(entry.path.removeprefix(BOOT_MOUNT)):
            mtools("mmd", [entry.path])
    return disk.put_boot(
        [
            PutBootFile(
                path=entry.path.removeprefix(BOOT_MOUNT), content=stored.content(entry.sha256).read_bytes()
            )
            for entry in entries
            if entry.sha256 is not None
        ]
    )


def _replaced(layer: Layer, disk: DiskImage) -> set[str]:
    with open_volumes(disk.path) as volumes:
        return {
            entry.path for entry in layer.entries if volumes.root.find(entry.path, follow=False) is not None
        }


def _read_back(volume: Ext4Volume, entry: Entry, replaced: bool) -> Written:
    inode = volume.find(entry.path, follow=False)
    if inode is None:
        raise ReadBackFailed(entry.path, "an entry of the package layer", "nothing")
    found, expected = _look(inode), f"mode {entry.mode:o}, owner {entry.uid}:{entry.gid}"
    if found != expected:
        raise ReadBackFailed(entry.path, expected, found)
    if entry.target is not None and volume.read_link(inode) != entry.target:
        raise ReadBackFailed(entry.path, f"a link to {entry.target}", f"a link to {volume.read_link(inode)}")
    sha256 = entry.sha256
    if sha256 is not None:
        digest = hashlib.sha256()
        for piece in volume.iter_content(inode):
            digest.update(piece)
        if digest.hexdigest() != sha256:
            raise ReadBackFailed(entry.path, f"sha256 {sha256}", f"sha256 {digest.hexdigest()}")
    elif entry.same_as is not None:
        other = volume.find(entry.same_as, follow=False)
        if other is None or other.number != inode.number:
            raise ReadBackFailed(entry.path, f"another name of {entry.same_as}", "a file of its own")
    kept = {name: value for name, value in volume.attributes(inode).items() if name in entry.attributes}
    # POSIX ACLs have another form on the disk than in system calls.
    wanted = {name: value for name, value in entry.attributes.items() if "posix_acl" not in name}
    if (
        any(kept.get(name) != value for name, value in wanted.items())
        or kept.keys() != entry.attributes.keys()
    ):
        raise ReadBackFailed(entry.path, f"attributes {sorted(entry.attributes)}", f"{sorted(kept)}")
    return Written(
        volume="root",
        path=entry.path,
        mode=stat.S_IMODE(entry.mode),
        uid=entry.uid,
        gid=entry.gid,
        size_bytes=entry.size_bytes,
        sha256=sha256,
        target=entry.target,
        replaced=replaced,
    )


def _look(inode: Inode) -> str:
    return f"mode {inode.mode:o}, owner {inode.uid}:{inode.gid}"
