"""Packed images: every container whole, cut, extended, lying and exploding."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuilder import writing
from imagebuilder.bases.containers import DamagedArchive, Format
from imagebuilder.bases.unpack import TooLarge, unpack
from imagebuilder.errors import ImageBuilderError, NoSpace

LIMIT = 1 << 24


def image(size: int = 700_000) -> bytes:
    """A disk image: data, a long run of zeros, data, and a size that is no multiple of anything."""
    noise = random.Random(7).randbytes(size // 4)
    head = bytearray(noise)
    head[510:512] = b"\x55\xaa"
    return bytes(head) + bytes(size // 2) + noise[::-1] + b"end"


RAW = image()
HALF = len(RAW) // 2


def as_zip(data: bytes, *names: str, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", method) as archive:
        for name in names or ("disk.img",):
            archive.writestr(name, data)
    return body.getvalue()


def zst(data: bytes, *, size: bool = True, checksum: bool = True) -> bytes:
    packer = zstandard.ZstdCompressor(level=3, write_content_size=size, write_checksum=checksum)
    if size:
        return packer.compress(data)
    stream = packer.compressobj()
    return stream.compress(data) + stream.flush()


def xz_blocks(data: bytes) -> bytes:
    """One .xz of several blocks is what ``xz -T2`` writes; streams are the nearest here."""
    return b"".join(lzma.compress(data[at : at + 100_000]) for at in range(0, len(data), 100_000))


SKIPPABLE = (0x184D2A53).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"notes"
PACKED: dict[str, tuple[Format, bytes]] = {
    "raw": (Format.RAW, RAW),
    "xz": (Format.XZ, lzma.compress(RAW)),
    "xz, no check": (Format.XZ, lzma.compress(RAW, check=lzma.CHECK_NONE)),
    "xz, many streams": (Format.XZ, xz_blocks(RAW)),
    "xz, padded": (Format.XZ, lzma.compress(RAW[:HALF]) + bytes(8) + lzma.compress(RAW[HALF:]) + bytes(4)),
    "zst": (Format.ZSTD, zst(RAW)),
    "zst, no size": (Format.ZSTD, zst(RAW, size=False, checksum=False)),
    "zst, many frames": (Format.ZSTD, zst(RAW[:HALF]) + SKIPPABLE + zst(RAW[HALF:], size=False)),
    "zst, skippable first": (Format.ZSTD, SKIPPABLE + zst(RAW)),
    "gz": (Format.GZIP, gzip.compress(RAW)),
    "gz, many members": (Format.GZIP, gzip.compress(RAW[:HALF]) + gzip.compress(RAW[HALF:])),
    "gz, padded": (Format.GZIP, gzip.compress(RAW) + bytes(512)),
    "zip": (Format.ZIP, as_zip(RAW)),
    "zip, stored": (Format.ZIP, as_zip(RAW, method=zipfile.ZIP_STORED)),
}


def check(tmp_path: Path, data: bytes, limit: int = LIMIT) -> bytes:
    """Unpack ``data``; what came out."""
    source, target = tmp_path / "packed", tmp_path / "disk.img"
    source.write_bytes(data)
    target.unlink(missing_ok=True)
    unpacked = unpack(source, target, limit_bytes=limit, name="own.img")
    content = target.read_bytes()
    assert (unpacked.size_bytes, unpacked.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    return content


@pytest.mark.parametrize("name", PACKED)
def test_every_container_gives_the_image_with_its_holes(tmp_path: Path, name: str) -> None:
    kind, data = PACKED[name]
    assert check(tmp_path, data) == RAW
    state = (tmp_path / "disk.img").stat()
    assert state.st_blocks * 512 <= len(RAW) - HALF + 3 * writing.HOLE_BYTES
    seen: list[tuple[int, int]] = []
    source = tmp_path / "packed"
    found = unpack(
        source, None, limit_bytes=LIMIT, on_progress=lambda done, total: seen.append((done, total))
    )
    assert found.format is kind
    assert seen == sorted(seen)
    assert seen[-1] == (len(data), len(data)) or kind is Format.ZIP


@pytest.mark.parametrize("part", range(16))
@pytest.mark.parametrize("name", ["xz", "xz, many streams", "zst", "zst, no size", "gz", "zip"])
def test_cut_archives_are_never_taken_for_whole(tmp_path: Path, name: str, part: int) -> None:
    data = PACKED[name][1]
    with pytest.raises(ImageBuilderError, match=r"own\.img"):
        check(tmp_path, data[: len(data) * part // 16])


@pytest.mark.parametrize("missing", range(1, 13))
@pytest.mark.parametrize("name", ["xz", "zst", "zst, no size", "gz"])
def test_even_a_few_missing_bytes_are_noticed(tmp_path: Path, name: str, missing: int) -> None:
    with pytest.raises(DamagedArchive):
        check(tmp_path, PACKED[name][1][:-missing])


GARBAGE = [b"garbage", b"\xfd7zXZ\0 but no more", b"\x28\xb5\x2f\xfd", b"\x1f\x8b"]


@pytest.mark.parametrize(
    ("name", "garbage"),
    # gzip itself takes zeros behind the last member for padding
    [
        *((name, garbage) for name in ("xz", "zst", "gz") for garbage in GARBAGE),
        ("xz", b"\0"),
        ("zst", b"\0"),
    ],
)
def test_bytes_behind_the_end_are_an_error(tmp_path: Path, name: str, garbage: bytes) -> None:
    with pytest.raises(DamagedArchive, match=r"own\.img"):
        check(tmp_path, PACKED[name][1] + garbage)


@pytest.mark.parametrize("name", ["xz", "zst", "gz", "zip"])
def test_a_changed_byte_in_the_middle_is_noticed(tmp_path: Path, name: str) -> None:
    data = bytearray(PACKED[name][1])
    data[len(data) // 2] ^= 0x40
    with pytest.raises(DamagedArchive, match="does not unpack"):
        check(tmp_path, bytes(data))


BOMB_BYTES = 3 << 20


@pytest.mark.parametrize(
    "pack",
    [lzma.compress, zst, lambda data: zst(data, size=False), gzip.compress, as_zip],
    ids=["xz", "zst", "zst without size", "gz", "zip"],
)
def test_bombs_are_stopped_at_the_limit(
    tmp_path: Path, pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0
    real = writing.pwrite

    def count(descriptor: int, data: bytes | memoryview, offset: int) -> int:
        nonlocal written
        written += len(data)
        return real(descriptor, data, offset)

    monkeypatch.setattr(writing, "pwrite", count)
    bomb = pack(b"\x01" * BOMB_BYTES)
    assert len(bomb) < 20_000
    with pytest.raises(TooLarge, match="at most 2097152 bytes"):
        check(tmp_path, bomb, limit=2 << 20)
    assert written <= 2 << 20


def test_sizes_that_headers_claim_are_not_believed(tmp_path: Path) -> None:
    frame = bytearray(zst(RAW))
    assert frame[4] >> 6 == 2  # the content size has four bytes, behind the descriptor of a single segment
    for claim, message in ((len(RAW) - 1, "own.img"), (0, "own.img"), (len(RAW) + 1, "own.img")):
        frame[5:9] = claim.to_bytes(4, "little")
        with pytest.raises(ImageBuilderError, match=message):
            check(tmp_path, bytes(frame))
    huge = b"\x28\xb5\x2f\xfd\xe0" + (1 << 63).to_bytes(8, "little") + b"\x01\x00\x00"
    with pytest.raises(TooLarge, match="9223372036854775808 bytes"):
        check(tmp_path, huge)


def test_declared_size_is_held_against_the_room_on_the_disk(tmp_path: Path) -> None:
    huge = b"\x28\xb5\x2f\xfd\xe0" + (1 << 60).to_bytes(8, "little") + b"\x01\x00\x00"
    with pytest.raises(NoSpace):
        check(tmp_path, huge, limit=1 << 62)
    assert not (tmp_path / "disk.img").exists()


def test_zstd_window_that_eats_memory_is_refused(tmp_path: Path) -> None:
    # Descriptor 0: no single segment, no size; window byte: exponent 21 over 1 KiB = 2 GiB
    frame = b"\x28\xb5\x2f\xfd\x00" + bytes([21 << 3]) + b"\x09\x00\x00x"
    with pytest.raises(DamagedArchive, match="does not unpack"):
        check(tmp_path, frame)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"<!DOCTYPE html>", "it is HTML", id="html"),
        pytest.param(b"BZh91AY", "it is bzip2", id="bzip2"),
        pytest.param(b"QFI\xfb" + bytes(600), "it is QCOW2", id="qcow2"),
        pytest.param(bytes(2000), "it starts with 00 00", id="zeros"),
        pytest.param(
            as_zip(b"x", "a.img", "b.img"), "exactly one image, holds 'a.img', 'b.img'", id="two in zip"
        ),
        pytest.param(as_zip(b"", "folder/"), "exactly one image, holds nothing", id="empty zip"),
        pytest.param(gzip.compress(b""), "holds nothing", id="nothing in gz"),
        pytest.param(SKIPPABLE, "no zstd frame", id="only skippable"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DamagedArchive, match=message):
        check(tmp_path, data)


def test_encrypted_zip_is_an_error(tmp_path: Path) -> None:
    data = bytearray(as_zip(RAW))
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + at] |= 1
    with pytest.raises(DamagedArchive, match="encrypted"):
        check(tmp_path, bytes(data))


def test_target_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "packed").write_bytes(PACKED["gz"][1])
    (tmp_path / "disk.img").write_bytes(b"somebody's")
    with pytest.raises(FileExistsError):
        unpack(tmp_path / "packed", tmp_path / "disk.img", limit_bytes=LIMIT)
    assert (tmp_path / "disk.img").read_bytes() == b"somebody's"


@settings(max_examples=150)
@given(st.sampled_from(["xz", "zst", "gz", "zip"]), st.integers(0, 2**16), st.binary(min_size=1, max_size=8))
def test_damage_anywhere_ends_in_the_image_or_in_an_error(
    tmp_path_factory: pytest.TempPathFactory, name: str, at: int, bytes_: bytes
) -> None:
    whole = bytes(random.Random(1).randbytes(400)) + bytes(112) + b"\x55\xaa"
    packs: dict[str, Callable[[bytes], bytes]] = {
        "xz": lzma.compress,
        "zst": zst,
        "gz": gzip.compress,
        "zip": as_zip,
    }
    data = bytearray(packs[name](whole))
    at %= len(data)
    data[at : at + len(bytes_)] = bytes_
    directory = tmp_path_factory.mktemp("fuzz")
    try:
        found = check(directory, bytes(data))
    except ImageBuilderError:
        return
    # What is not covered by a checksum: gzip's header fields, zip's names and dates, xz and zstd nothing.
    assert found == whole
