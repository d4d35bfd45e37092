"""What differs between two images: partition table, filesystems, and file by file on both partitions.

Reads the raw images through our own readers: no mount, no root. Contents are compared, not times; a file that
was only rewritten with what it held is no difference.
"""

from __future__ import annotations

import difflib
import hashlib
import posixpath
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from imagebuilder.disk.ext4 import Ext4Volume, Inode
from imagebuilder.disk.fat import FatVolume
from imagebuilder.disk.source import open_source
from imagebuilder.errors import NotUnderstood
from imagebuilder.inspect import ImageFacts, inspect_source

MAX_TEXT_BYTES: Final = 64 * 1024
"""Larger files are not shown line by line."""
MAX_TEXT_LINES: Final = 200


class Kind(StrEnum):
    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """A file as far as it is compared.

    Attributes:
        type: file, directory, link, device, fifo or socket.
        digest: SHA-256 of a regular file's content, in hex; empty for others.
        target: of a symbolic link.
        twin: another path of the same inode (a hard link), the first in order; else None.
        attributes: extended attributes by name, values in hex.
        device: major and minor number.
    """

    type: str
    mode: int
    uid: int
    gid: int
    size_bytes: int
    digest: str = ""
    target: str | None = None
    twin: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    device: tuple[int, int] | None = None

    @property
    def summary(self) -> str:
        """In a few words."""
        size = f", {self.size_bytes} bytes" if self.type == "file" else ""
        target = f" to {self.target}" if self.target is not None else ""
        return f"{self.type}{target}, mode {self.mode:04o}, owner {self.uid}:{self.gid}{size}"

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = {
            "type": self.type,
            "mode": f"{self.mode:04o}",
            "uid": self.uid,
            "gid": self.gid,
            "size_bytes": self.size_bytes,
        }
        for name in ("digest", "target", "twin", "device"):
            value = getattr(self, name)
            if value:
                plain["sha256" if name == "digest" else name] = value
        if self.attributes:
            plain["attributes"] = dict(self.attributes)
        return plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One difference. ``text`` shows it line by line, where the file is text and small."""

    volume: str
    path: str
    kind: Kind
    before: FileState | None
    after: FileState | None
    text: tuple[str, ...] = ()

    @property
    def details(self) -> tuple[str, ...]:
        """What of the file is different, in words."""
        return tuple(_details(self.before, self.after)) if self.before and self.after else ()

    def to_json(self) -> dict[str, Any]:
        return {
            "volume": self.volume,
            "path": self.path,
            "kind": self.kind.value,
            "details": list(self.details),
            "before": self.before.to_json() if self.before else None,
            "after": self.after.to_json() if self.after else None,
            "text": list(self.text),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """All differences. ``disk`` are lines about tables and filesystems."""

    disk: tuple[str, ...]
    changes: tuple[Change, ...]

    @property
    def is_empty(self) -> bool:
        return not self.disk and not self.changes

    def to_json(self) -> dict[str, Any]:
        return {"disk": list(self.disk), "changes": [change.to_json() for change in self.changes]}


def compare_images(
    one: Path, other: Path, *, progress: Callable[[str, float], None] = lambda text, share: None
) -> Difference:
    """What ``other`` is that ``one`` is not.

    Raises:
        NotUnderstood: one of them is no image of a known system.
    """
    with ExitStack() as stack:
        sides = []
        for path in (one, other):
            source = stack.enter_context(open_source(path))
            try:
                facts = inspect_source(source, path.stat().st_size)
            except NotUnderstood as exc:
                raise type(exc)(f"{path.name}: {exc.message}", exc.hint) from exc
            sides.append((facts, FatVolume(source, facts.boot.offset), Ext4Volume(source, facts.root.offset)))
        (facts_a, fat_a, ext4_a), (facts_b, fat_b, ext4_b) = sides
        progress("comparing the boot partitions", 0.0)
        boot = _compare("boot", _read_fat(fat_a), _read_fat(fat_b), fat_a.read, fat_b.read)
        progress("comparing the root filesystems", 0.1)
        states = [_read_ext4(ext4_a), _read_ext4(ext4_b)]
        changes = [*boot, *_compare_roots(states, (ext4_a, ext4_b), progress)]
    return Difference(disk=tuple(_compare_disks(facts_a, facts_b)), changes=tuple(changes))


def _compare_disks(one: ImageFacts, other: ImageFacts) -> Iterator[str]:
    rows: list[tuple[str, object, object]] = [
        ("image size", one.size_bytes, other.size_bytes),
        ("partition table", one.table.kind.value, other.table.kind.value),
        ("disk id", one.table.disk_id, other.table.disk_id),
        ("FAT label", one.boot.label, other.boot.label),
        ("FAT serial", f"{one.boot.serial:08x}", f"{other.boot.serial:08x}"),
        ("FAT cluster bytes", one.boot.cluster_bytes, other.boot.cluster_bytes),
        ("ext4 label", one.root.label, other.root.label),
        ("ext4 UUID", one.root.uuid, other.root.uuid),
        ("ext4 size", one.root.size_bytes, other.root.size_bytes),
        ("ext4 features", " ".join(one.root.features), " ".join(other.root.features)),
        ("dialect", one.dialect.value, other.dialect.value),
    ]
    parts = [{entry.number: entry for entry in facts.table.partitions} for facts in (one, other)]
    for number in sorted({*parts[0], *parts[1]}):
        shown = [
            f"{entry.sectors} sectors at {entry.start_lba}, type {entry.type}" if entry else "none"
            for entry in (side.get(number) for side in parts)
        ]
        rows.append((f"partition {number}", shown[0], shown[1]))
    yield from (f"{what}: {before} → {after}" for what, before, after in rows if before != after)


def _compare_roots(
    states: list[dict[str, tuple[FileState, Inode]]],
    volumes: tuple[Ext4Volume, Ext4Volume],
    progress: Callable[[str, float], None],
) -> list[Change]:
    filled: list[dict[str, FileState]] = [{}, {}]
    paths = sorted({*states[0], *states[1]})
    for count, path in enumerate(paths):
        if count % 2000 == 0:
            progress("comparing the root filesystems", 0.1 + 0.9 * count / len(paths))
        for side in (0, 1):
            if path in states[side]:
                state, inode = states[side][path]
                digest = _digest(volumes[side].iter_content(inode)) if inode.is_file else ""
                filled[side][path] = replace(state, digest=digest)
    return _compare("root", filled[0], filled[1], volumes[0].read, volumes[1].read)


def _compare(
    volume: str,
    before: Mapping[str, FileState],
    after: Mapping[str, FileState],
    read_before: Callable[[str], bytes],
    read_after: Callable[[str], bytes],
) -> list[Change]:
    changes = []
    for path in sorted({*before, *after}):
        one, other = before.get(path), after.get(path)
        if one == other:
            continue
        kind = Kind.ADDED if one is None else Kind.REMOVED if other is None else Kind.CHANGED
        text: tuple[str, ...] = ()
        if one is not None and other is not None and one.digest != other.digest and _is_small(one, other):
            text = tuple(_text_difference(path, read_before(path), read_after(path)))
        changes.append(Change(volume=volume, path=path, kind=kind, before=one, after=other, text=text))
    return changes


def _is_small(*states: FileState) -> bool:
    return all(state.type == "file" and state.size_bytes <= MAX_TEXT_BYTES for state in states)


def _text_difference(path: str, before: bytes, after: bytes) -> Iterator[str]:
    """Lines of a unified diff; a kernel command line is compared word by word. Nothing for binary files."""
    if b"\0" in before or b"\0" in after:
        return
    try:
        one, other = before.decode("utf-8"), after.decode("utf-8")
    except UnicodeDecodeError:
        return
    split = str.split if posixpath.basename(path) == "cmdline.txt" else str.splitlines
    lines = difflib.unified_diff(split(one.rstrip("\n")), split(other.rstrip("\n")), lineterm="", n=0)
    shown = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
    yield from shown[:MAX_TEXT_LINES]
    if len(shown) > MAX_TEXT_LINES:
        yield f"… and {len(shown) - MAX_TEXT_LINES} lines more"


def _details(one: FileState, other: FileState) -> Iterator[str]:
    if one.type != other.type:
        yield f"{one.type} → {other.type}"
    if one.mode != other.mode:
        yield f"mode {one.mode:04o} → {other.mode:04o}"
    if (one.uid, one.gid) != (other.uid, other.gid):
        yield f"owner {one.uid}:{one.gid} → {other.uid}:{other.gid}"
    if one.target != other.target:
        yield f"target {one.target} → {other.target}"
    if one.device != other.device:
        yield f"device {one.device} → {other.device}"
    if one.twin != other.twin:
        yield f"hard link of {one.twin or 'nothing'} → {other.twin or 'nothing'}"
    for name in sorted({*one.attributes, *other.attributes}):
        if one.attributes.get(name) != other.attributes.get(name):
            before, after = (side.attributes.get(name, "none") for side in (one, other))
            yield f"attribute {name}: {before} → {after}"
    if one.digest != other.digest and one.type == other.type:
        sizes = f"{one.size_bytes} → {other.size_bytes} bytes"
        yield f"content ({sizes})" if one.size_bytes != other.size_bytes else "content (same size)"


def _read_fat(volume: FatVolume) -> dict[str, FileState]:
    """FAT has neither owners nor modes; every file counts as root's with mode 0755."""
    found = {}
    for entry in volume.walk():
        digest = "" if entry.is_directory else _digest([volume.read(entry.path)])
        found[entry.path] = FileState(
            type="directory" if entry.is_directory else "file",
            mode=0o755,
            uid=0,
            gid=0,
            size_bytes=entry.size_bytes,
            digest=digest,
        )
    return found


_TYPES: Final = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def _read_ext4(volume: Ext4Volume) -> dict[str, tuple[FileState, Inode]]:
    first: dict[int, str] = {}
    found = {}
    for path, inode in volume.walk("/"):
        kind = _TYPES.get(stat.S_IFMT(inode.mode), "unknown")
        twin = first.setdefault(inode.number, path)
        found[path] = (
            FileState(
                type=kind,
                mode=stat.S_IMODE(inode.mode),
                uid=inode.uid,
                gid=inode.gid,
                # A directory's size is how it grew, a link's is its target's.
                size_bytes=inode.size_bytes if inode.is_file else 0,
                target=volume.read_link(inode) if inode.is_symlink else None,
                twin=None if twin == path else twin,
                attributes={name: value.hex() for name, value in volume.attributes(inode).items()},
                device=_device(inode.block) if kind == "device" else None,
            ),
            inode,
        )
    return found


def _device(block: bytes) -> tuple[int, int]:
    """Major and minor number. Old form: bytes 0–1 of i_block; new form, where that is 0: bytes 4–7.

    Source: Linux, fs/ext4/inode.c (ext4_iget) and include/linux/kdev_t.h.
    """
    old = int.from_bytes(block[:4], "little")
    if old:
        return old >> 8 & 0xFF, old & 0xFF
    new = int.from_bytes(block[4:8], "little")
    return new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00


def _digest(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
