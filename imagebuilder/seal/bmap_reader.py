"""Block maps of other tools, read: versions 1.0 to 1.4 and 2.0. Pure: bytes in, values out.

A block map comes from wherever the image came from, so nothing in it is believed: the XML may hold no
document type and no entities, the file must prove itself where its version lets it, and the ranges must
ascend, lie inside of the image and add up to what the head says. All that is wrong is told at once.

    version       digest of the file    digest of a range
    1.0 – 1.2     –                     –
    1.3           BmapFileSHA1          sha1="…"
    1.4, 2.0      BmapFileChecksum      chksum="…", by the function that ChecksumType names

Source: the formats that bmap-tools 3.6 reads and writes (``bmaptool create``, and the comment at the head of
its files).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from xml.parsers import expat

from imagebuilder.disk.blockmap import ByteRange
from imagebuilder.disk.source import ByteSource
from imagebuilder.errors import NotUnderstood

MAX_BYTES: Final = 64 * 2**20
"""A map of a 2 TiB disk in single ranges of 1 MiB has 2 million of them; real ones have some hundred."""
MIN_BLOCK_BYTES: Final = 512
MAX_BLOCK_BYTES: Final = 1 << 24
MAX_PROBLEMS: Final = 20
DIGESTS: Final = ("sha1", "sha256", "sha384", "sha512")
_PIECE_BYTES: Final = 1 << 20
_VERSION: Final = re.compile(r"(\d{1,3})\.(\d{1,3})")
_NUMBER: Final = re.compile(r"\d{1,18}")
_SPAN: Final = re.compile(r"(\d{1,18})(?:\s*-\s*(\d{1,18}))?")
_COUNTS: Final = ("ImageSize", "BlockSize", "BlocksCount", "MappedBlocksCount")
_FILE_DIGESTS: Final = ("BmapFileChecksum", "BmapFileSHA1")
_HEAD: Final = (*_COUNTS, "ChecksumType", *_FILE_DIGESTS)
_OTHER_KINDS: Final = {
    b"\x1f\x8b": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"PK\x03\x04": "a zip file",
}


class BmapError(NotUnderstood):
    """Not a block map, or one that contradicts itself or the image."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        shown = problems[:MAX_PROBLEMS]
        if len(problems) > len(shown):
            shown.append(f"and {len(problems) - len(shown)} more")
        super().__init__(
            "the block map cannot be used:\n" + "\n".join(f"  {problem}" for problem in shown),
            "Fetch it again from where the image came from, or flash without it: everything is written then.",
        )


@dataclass(frozen=True, slots=True)
class BlockRange:
    """Blocks ``first`` to ``last``, both included; ``digest`` of their bytes, where the map has it."""

    first: int
    last: int
    digest: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockMap:
    """A block map that is sound in itself. ``digest_name`` is a name of hashlib, None without digests."""

    version: str
    size_bytes: int
    block_bytes: int
    digest_name: str | None
    ranges: tuple[BlockRange, ...]

    @property
    def mapped_blocks(self) -> int:
        return sum(one.last - one.first + 1 for one in self.ranges)

    def bytes_of(self, one: BlockRange) -> ByteRange:
        """A range in bytes; the last block of an image may be a part of one."""
        end = min((one.last + 1) * self.block_bytes, self.size_bytes)
        return ByteRange(one.first * self.block_bytes, end)

    def byte_ranges(self) -> tuple[ByteRange, ...]:
        """What must be written: ascending and disjoint."""
        return tuple(self.bytes_of(one) for one in self.ranges)


def parse_bmap(data: bytes) -> BlockMap:
    """Read a block map.

    Raises:
        BmapError: with everything that is wrong.
    """
    if kind := _other_kind(data):
        raise BmapError([f"it is {kind}, expected XML that begins with '<'"])
    document = _read_xml(data)
    problems: list[str] = []
    found = _VERSION.fullmatch(document.version)
    if document.root != "bmap" or found is None:
        raise BmapError(
            [f"its root is <{document.root} version={document.version!r}>, expected <bmap version=…>"]
        )
    version = (int(found[1]), int(found[2]))
    if not (1, 0) <= version <= (2, 999):
        raise BmapError([f"it has version {document.version}; 1.0 to 2.x are understood"])
    digest_name = _digest_name(version, document.head, problems)
    if digest_name is not None:
        _check_itself(data, document, version, digest_name, problems)
    size, block, blocks, mapped = (_count(document.head, name, problems) for name in _COUNTS)
    ranges = tuple(_ranges(document, version, digest_name, problems))
    if block and not (MIN_BLOCK_BYTES <= block <= MAX_BLOCK_BYTES and block & (block - 1) == 0):
        problems.append(f"BlockSize is {block}, expected a power of two from 512 to 16 MiB")
        block = 0
    if size and block:
        real = -(-size // block)
        if blocks != real:
            problems.append(f"BlocksCount is {blocks}; an image of {size} bytes has {real} blocks of {block}")
        problems.extend(
            f"range {one.first}-{one.last} reaches beyond the image, whose last block is {real - 1}"
            for one in ranges
            if one.last >= real
        )
    summed = sum(one.last - one.first + 1 for one in ranges)
    if summed != mapped:
        problems.append(f"MappedBlocksCount is {mapped}, the ranges have {summed} blocks")
    if problems:
        raise BmapError(problems)
    return BlockMap(
        version=document.version,
        size_bytes=size,
        block_bytes=block,
        digest_name=digest_name if any(one.digest for one in ranges) else None,
        ranges=ranges,
    )


def load_bmap(path: Path) -> BlockMap:
    """Read a block map file; a large one is not even loaded.

    Raises:
        BmapError: it is none, or contradicts itself.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if kind := _other_kind(data):
        raise BmapError([f"{path.name} is {kind}, expected XML that begins with '<'"])
    if len(data) > MAX_BYTES:
        raise BmapError([f"{path.name} has more than {MAX_BYTES} bytes, far more than any block map"])
    return parse_bmap(data)


def is_bmap(head: bytes) -> bool:
    """Whether a file that begins with ``head`` (some hundred bytes) is a block map and no image."""
    return bool(re.match(rb"\s*(<\?xml[^>]*\?>)?\s*(<!--.*?-->\s*)*<bmap\s", head, re.DOTALL)) or (
        head.lstrip().startswith(b"<?xml") and b"<bmap" in head
    )


def find_damage(
    block_map: BlockMap,
    source: ByteSource,
    size_bytes: int,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Iterator[str]:
    """What of an image is not as its map says; nothing where all ranges have their digests.

    Args:
        source: the image.
        size_bytes: its size.
        on_progress: called with 0.0–1.0.
    """
    if size_bytes != block_map.size_bytes:
        yield f"the image has {size_bytes} bytes, its block map is of {block_map.size_bytes}"
        return
    done = 0
    for one in block_map.ranges:
        mapped = block_map.bytes_of(one)
        if one.digest is not None and block_map.digest_name is not None:
            digest = hashlib.new(block_map.digest_name)
            for position in range(mapped.start, mapped.end, _PIECE_BYTES):
                digest.update(source.read_at(position, min(_PIECE_BYTES, mapped.end - position)))
            if digest.hexdigest() != one.digest:
                yield (
                    f"bytes {mapped.start}–{mapped.end - 1} (blocks {one.first}-{one.last}): "
                    f"{block_map.digest_name} is {digest.hexdigest()}, the block map says {one.digest}"
                )
        done += one.last - one.first + 1
        on_progress(done / block_map.mapped_blocks)


@dataclass(slots=True)
class _Document:
    """What the XML holds, as text."""

    root: str = ""
    version: str = ""
    head: dict[str, str] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    ranges: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)


def _read_xml(data: bytes) -> _Document:
    """The elements that matter. Declarations that could expand or fetch anything end the reading."""
    document = _Document()
    stack: list[str] = []
    text: list[str] = []
    attributes: dict[str, str] = {}

    def refuse(what: str) -> Callable[..., None]:
        def handler(*_: object) -> None:
            raise BmapError([f"its XML holds {what}, which block maps have no use for and attacks have"])

        return handler

    def start(name: str, given: dict[str, str]) -> None:
        nonlocal attributes
        if not stack:
            document.root, document.version = name, given.get("version", "")
        stack.append(name)
        text.clear()
        attributes = given
        if stack == ["bmap", name] and name in _HEAD:
            document.places[name] = parser.CurrentByteIndex

    def end(name: str) -> None:
        value = "".join(text).strip()
        if stack == ["bmap", name] and name in _HEAD:
            if name in document.head:
                document.repeated.append(name)
            document.head[name] = value
        elif stack == ["bmap", "BlockMap", "Range"]:
            document.ranges.append((value, attributes))
        stack.pop()
        text.clear()

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse("a document type")
    parser.EntityDeclHandler = refuse("an entity")
    parser.ProcessingInstructionHandler = refuse("a processing instruction")
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text.append
    try:
        parser.Parse(data, True)
    except expat.ExpatError as exc:
        raise BmapError([f"its XML is damaged: {exc}"]) from exc
    return document


def _other_kind(data: bytes) -> str | None:
    for magic, kind in _OTHER_KINDS.items():
        if data.startswith(magic):
            return kind
    if data[510:512] == b"\x55\xaa":
        return "a disk image"
    return None if data.lstrip()[:1] == b"<" else "no XML" if data.strip() else "empty"


def _digest_name(version: tuple[int, int], head: dict[str, str], problems: list[str]) -> str | None:
    if version < (1, 3):
        return None
    if version == (1, 3):
        return "sha1"
    name = head.get("ChecksumType", "")
    if name in DIGESTS:
        return name
    problems.append(f"ChecksumType is {name!r}, expected one of {', '.join(DIGESTS)}")
    return None


def _check_itself(
    data: bytes, document: _Document, version: tuple[int, int], digest_name: str, problems: list[str]
) -> None:
    """The file's digest is computed with its own characters replaced by zeros."""
    element = "BmapFileSHA1" if version == (1, 3) else "BmapFileChecksum"
    said = document.head.get(element, "")
    if not re.fullmatch(rf"[0-9a-f]{{{hashlib.new(digest_name).digest_size * 2}}}", said):
        problems.append(f"{element} is {said!r}, expected a {digest_name} in lower-case hex digits")
        return
    # Where the element stands, not where the digits are first: they may be in a comment before it.
    at = data.find(said.encode(), document.places[element])
    blank = data[:at] + b"0" * len(said) + data[at + len(said) :]
    real = hashlib.new(digest_name, blank).hexdigest()
    if at < 0 or real != said:
        problems.append(f"{element} is {said}, the file's own {digest_name} is {real}: it was changed")


def _count(head: dict[str, str], name: str, problems: list[str]) -> int:
    value = head.get(name)
    if value is not None and _NUMBER.fullmatch(value) and (int(value) > 0 or name == "MappedBlocksCount"):
        return int(value)
    problems.append(f"{name} is {'not there' if value is None else repr(value[:40])}, expected a number")
    return 0


def _ranges(
    document: _Document, version: tuple[int, int], digest_name: str | None, problems: list[str]
) -> Iterator[BlockRange]:
    problems.extend(f"{name} is there more than once" for name in document.repeated)
    name = "sha1" if version == (1, 3) else "chksum"
    digits = hashlib.new(digest_name).digest_size * 2 if digest_name else 0
    before = -1
    have = {name in attributes for _, attributes in document.ranges} if digest_name else {False}
    if len(have) > 1:
        problems.append(f"some ranges have a {name} and some have none")
    for text, attributes in document.ranges:
        match = _SPAN.fullmatch(text)
        if match is None:
            problems.append(f"a range reads {text[:40]!r}, expected FIRST or FIRST-LAST")
            continue
        first, last = int(match[1]), int(match[2] or match[1])
        digest = attributes.get(name) if digest_name else None
        if last < first:
            problems.append(f"range {first}-{last} ends before it begins")
            continue
        if first <= before:
            problems.append(
                f"range {first}-{last} begins at or before block {before}, where the one before it ends"
            )
        if digest is not None and not re.fullmatch(rf"[0-9a-f]{{{digits}}}", digest):
            problems.append(
                f"range {first}-{last} has the {name} {digest[:40]!r}, expected {digits} hex digits"
            )
        before = max(before, last)
        yield BlockRange(first, last, digest)
