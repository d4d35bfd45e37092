"""Block maps from elsewhere: every version, and everything that a hostile one can say."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.disk.blockmap import ByteRange
from imagebuilder.disk.source import MemorySource
from imagebuilder.seal.bmap import render_bmap
from imagebuilder.seal.bmap_reader import BlockMap, BmapError, find_damage, is_bmap, load_bmap, parse_bmap
from imagebuilder.seal.chunks import Chunk

BLOCK = 4096
SIZE = 10 * BLOCK + 100
IMAGE = hashlib.shake_256(b"image").digest(SIZE)
RANGES = ((0, 1), (4, 4), (8, 10))


def digest_of(first: int, last: int, name: str = "sha256") -> str:
    return hashlib.new(name, IMAGE[first * BLOCK : (last + 1) * BLOCK]).hexdigest()


def bmap(
    version: str = "2.0",
    *,
    ranges: tuple[tuple[object, object], ...] = RANGES,
    digest: str = "sha256",
    size: object = SIZE,
    block: object = BLOCK,
    blocks: object = 11,
    mapped: object = 6,
    prolog: str = '<?xml version="1.0" ?>\n',
    attribute: str = "chksum",
    extra: str = "",
) -> bytes:
    """A map in bmaptool's form, with its own digest right whatever else is wrong."""
    has_digests = version not in ("1.0", "1.1", "1.2")
    digits = hashlib.new(digest).digest_size * 2
    rows = []
    for first, last in ranges:
        span = f"{first}" if first == last else f"{first}-{last}"
        is_plain = isinstance(first, int) and isinstance(last, int)
        said = digest_of(first, last, digest) if is_plain else "0" * digits  # type: ignore[arg-type]
        rows.append(
            f'<Range {attribute}="{said}"> {span} </Range>' if has_digests else f"<Range> {span} </Range>"
        )
    element = "BmapFileSHA1" if version == "1.3" else "BmapFileChecksum"
    blank = "0" * digits
    own = f"<{element}> {blank} </{element}>" if has_digests else ""
    kind = f"<ChecksumType> {digest} </ChecksumType>" if has_digests and version != "1.3" else ""
    text = (
        f'{prolog}<bmap version="{version}">\n<!-- a comment -->\n<ImageSize> {size} </ImageSize>\n'
        f"<BlockSize> {block} </BlockSize>\n<BlocksCount> {blocks} </BlocksCount>\n"
        f"<MappedBlocksCount> {mapped} </MappedBlocksCount>\n{kind}\n{own}\n{extra}"
        f"<BlockMap>\n{''.join(rows)}\n</BlockMap>\n</bmap>\n"
    )
    if has_digests:
        text = text.replace(
            f"> {blank} </{element}", f"> {hashlib.new(digest, text.encode()).hexdigest()} </{element}", 1
        )
    return text.encode()


@pytest.mark.parametrize("version", ["1.0", "1.2", "1.3", "1.4", "2.0"])
def test_every_version_is_read(version: str) -> None:
    old = version == "1.3"
    data = bmap(version, digest="sha1" if old else "sha256", attribute="sha1" if old else "chksum")
    found = parse_bmap(data)
    assert (found.size_bytes, found.block_bytes, found.mapped_blocks) == (SIZE, BLOCK, 6)
    assert found.digest_name == {"1.0": None, "1.2": None, "1.3": "sha1"}.get(version, "sha256")
    assert found.byte_ranges() == (
        ByteRange(0, 2 * BLOCK),
        ByteRange(4 * BLOCK, 5 * BLOCK),
        ByteRange(8 * BLOCK, SIZE),
    ), "the last block is a part of one"
    assert list(find_damage(found, MemorySource(IMAGE), SIZE)) == []


def test_our_own_map_is_read() -> None:
    def chunk(first: int, last: int) -> Chunk:
        digest, length = digest_of(first, last), (last - first + 1) * BLOCK
        return Chunk(offset=first * BLOCK, length=length, sha256=digest, position=0, compressed_bytes=1)

    found = parse_bmap(render_bmap(SIZE, [chunk(0, 1), chunk(4, 4)]).encode())
    assert [(one.first, one.last) for one in found.ranges] == [(0, 1), (4, 4)]
    assert list(find_damage(found, MemorySource(IMAGE), SIZE)) == []


def test_damage_names_the_bytes() -> None:
    damaged = bytearray(IMAGE)
    damaged[SIZE - 1] ^= 1
    shares: list[float] = []
    [only] = find_damage(parse_bmap(bmap()), MemorySource(bytes(damaged)), SIZE, shares.append)
    assert only.startswith(f"bytes {8 * BLOCK}–{SIZE - 1} (blocks 8-10): sha256 is ")
    assert shares[-1] == 1.0
    [other] = find_damage(parse_bmap(bmap()), MemorySource(IMAGE), SIZE + 1)
    assert "its block map is of" in other


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bmap(ranges=((0, 1), (8, 11)), mapped=6), "reaches beyond the image"),
        (bmap(ranges=((0, 1), (8, 1 << 50)), mapped=6), "reaches beyond the image"),
        (bmap(ranges=((0, 4), (4, 4)), mapped=6), "at or before block 4"),
        (bmap(ranges=((4, 4), (0, 1)), mapped=3), "at or before block 4"),
        (bmap(ranges=((1, 0),), mapped=0), "ends before it begins"),
        (bmap(ranges=(("-1", "3"),), mapped=4), "expected FIRST or FIRST-LAST"),
        (bmap(ranges=(("0x1", "3"),), mapped=4), "expected FIRST or FIRST-LAST"),
        (bmap(mapped=5), "MappedBlocksCount is 5, the ranges have 6"),
        (bmap(blocks=12), "BlocksCount is 12"),
        (bmap(size=0), "ImageSize is '0'"),
        (bmap(size="1e9"), "ImageSize is '1e9'"),
        (bmap(size="9" * 40), "ImageSize is '99"),
        (bmap(block=0), "BlockSize is '0'"),
        (bmap(block=4097), "BlockSize is 4097, expected a power of two"),
        (bmap(block=1 << 40), "expected a power of two"),
        (bmap(extra="<ImageSize> 5 </ImageSize>"), "ImageSize is there more than once"),
        (bmap("3.0"), "version 3.0"),
        (bmap("0.9"), "version 0.9"),
        (bmap("x"), "expected <bmap version"),
        (bmap(digest="md5"), "ChecksumType is 'md5'"),
        (bmap(attribute="sha1").replace(b"sha1=", b"chksum=", 1), "some ranges have a chksum"),
        (bmap().replace(b" 4096 ", b" 8192 "), "it was changed"),
        (bmap().replace(b"a comment", b"a Comment"), "it was changed"),
        (bmap().replace(b"BmapFileChecksum", b"BmapFileChecksun"), "BmapFileChecksum is ''"),
        (b'<?xml version="1.0"?><html version="2.0"></html>', "its root is <html"),
        (bmap()[:-20], "its XML is damaged"),
        (b"", "it is empty"),
        (b"\0" * 510 + b"\x55\xaa", "it is a disk image"),
        (b"\xfd7zXZ\0", "it is an xz file"),
        (b"\x1f\x8b\x08", "it is a gzip file"),
        (b"hello", "it is no XML"),
    ],
)
def test_a_map_that_is_wrong_says_how(data: bytes, words: str) -> None:
    with pytest.raises(BmapError) as caught:
        parse_bmap(data)
    assert words in caught.value.message


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(BmapError) as caught:
        parse_bmap(bmap(ranges=((4, 4), (0, 1), (9, 12)), mapped=1, blocks=3).replace(b"comment", b"Comment"))
    assert len(caught.value.problems) == 5


BOMB = """<?xml version="1.0"?>
<!DOCTYPE bmap [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]>
"""
OUTSIDE = '<?xml version="1.0"?>\n<!DOCTYPE bmap [<!ENTITY x SYSTEM "file:///etc/passwd">]>\n'


@pytest.mark.parametrize(
    "prolog", [BOMB, OUTSIDE, '<?xml version="1.0"?>\n<!DOCTYPE bmap SYSTEM "http://x/y">']
)
def test_document_types_and_entities_are_refused(prolog: str) -> None:
    with pytest.raises(BmapError, match="which block maps have no use for"):
        parse_bmap(bmap(prolog=prolog))


def test_the_digest_stands_where_its_element_is() -> None:
    """The same digits in a comment before it must not be what is blanked."""
    honest = bmap()
    digits = honest.split(b"<BmapFileChecksum> ")[1].split(b" ")[0]
    with pytest.raises(BmapError, match="it was changed"):
        parse_bmap(honest.replace(b"a comment", digits))


def test_files_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "map").write_bytes(bmap())
    (tmp_path / "disk.img").write_bytes(b"\0" * 510 + b"\x55\xaa" + bytes(5000))
    assert isinstance(load_bmap(tmp_path / "map"), BlockMap)
    with pytest.raises(BmapError, match=r"disk\.img is a disk image"):
        load_bmap(tmp_path / "disk.img")
    assert is_bmap(bmap()[:256])
    assert not is_bmap((tmp_path / "disk.img").read_bytes()[:512])


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(BmapError):
        parse_bmap(data)


@given(st.integers(0, len(bmap()) - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed_or_means_the_same(place: int, flip: int) -> None:
    damaged = bytearray(bmap())
    damaged[place] ^= flip
    try:
        found = parse_bmap(bytes(damaged))
    except BmapError:
        return
    assert found == parse_bmap(bmap())
