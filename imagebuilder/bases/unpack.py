"""Unpack an image into a sparse raw file, in one pass, in bounded memory, and say its digest.

Decompression runs in a thread of its own (liblzma, zlib and zstd let Python's lock go), hashing and
writing in the caller's.
"""

from __future__ import annotations

import contextlib
import hashlib
import lzma
import os
import queue
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import zstandard

from imagebuilder.bases.containers import (
    DamagedArchive,
    Declared,
    Format,
    declared_by_xz,
    declared_by_zstd,
    detect,
)
from imagebuilder.errors import ImageBuilderError
from imagebuilder.store import require_room
from imagebuilder.writing import flush, write_error, write_sparse

PIECE_BYTES: Final = 1 << 20
INPUT_BYTES: Final = 256 << 10
AHEAD: Final = 8
"""Unpacked pieces that may wait for the writer: 8 MiB."""

XZ_MEMORY_BYTES: Final = 256 << 20
"""xz -9 takes 65 MiB to unpack; a file that wants more is made to exhaust memory."""

ZSTD_WINDOW_BYTES: Final = 128 << 20
"""What ``zstd -d`` allows without asking: --long=27."""


_ZIP_FAULTS: Final = (
    *(zipfile.BadZipFile, RuntimeError, EOFError, zlib.error, lzma.LZMAError),
    *(OSError, ValueError, IndexError, struct.error),
)
"""What zipfile raises over damaged archives; the last four are seeks, dates and fields that it does not
check (seen with CPython 3.11 under random damage)."""


class TooLarge(ImageBuilderError):
    """An image that unpacks to more than was allowed."""

    def __init__(self, name: str, found: str, limit_bytes: int) -> None:
        super().__init__(
            f"{name}: unpacks to {found}, at most {limit_bytes} bytes ({limit_bytes / 2**30:.0f} GiB) are "
            "allowed",
            "No stock image is that large; the file is not what it should be.",
        )


@dataclass(frozen=True, slots=True)
class Unpacked:
    """``size_bytes`` and ``sha256`` are those of the raw image."""

    format: Format
    size_bytes: int
    sha256: str


class _File:
    """A packed file by offset and as a stream; ``position`` says how far the stream was read."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.size = size
        self.position = 0

    def read_at(self, offset: int, size: int) -> bytes:
        try:
            return os.pread(self._file.fileno(), size, offset) if offset >= 0 else b""
        except OSError as exc:
            raise self._unreadable(exc) from exc

    def read(self, size: int = -1) -> bytes:
        try:
            data = self._file.read(INPUT_BYTES if size < 0 else size)
        except OSError as exc:
            raise self._unreadable(exc) from exc
        self.position += len(data)
        return data

    def _unreadable(self, exc: OSError) -> ImageBuilderError:
        return ImageBuilderError(
            f"{self._file.name}: cannot be read: {exc.strerror}", "Look at the disk that it lies on: dmesg."
        )


def unpack(
    source: Path,
    target: Path | None,
    *,
    limit_bytes: int,
    name: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Unpacked:
    """Write the raw image of ``source`` to ``target``, zeros as holes.

    Args:
        source: a regular file.
        target: the file to make; None: only find out size and digest.
        limit_bytes: the raw image may be so large.
        name: what to call the file in errors.
        on_progress: called with bytes read of the packed file, and its size.

    Raises:
        DamagedArchive: it is of no known format, or damaged anywhere.
        TooLarge, NoSpace, DiskFull, WriteError
    """
    name = name or source.name
    with contextlib.ExitStack() as stack:
        file = _File(stack.enter_context(source.open("rb")), source.stat().st_size)
        kind = detect(file, name)
        declared = _declared(kind, file, name)
        if declared.size_bytes is not None:
            if declared.size_bytes > limit_bytes:
                raise TooLarge(name, f"{declared.size_bytes} bytes", limit_bytes)
            if target is not None:
                require_room(target.parent, declared.size_bytes)
        descriptor = None
        if target is not None:
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            stack.callback(os.close, descriptor)
        digest = hashlib.sha256()
        position = 0
        for piece in _read_ahead(_pieces(kind, file, source, name)):
            if position + len(piece) > limit_bytes:
                raise TooLarge(name, "more", limit_bytes)
            digest.update(piece)
            if descriptor is not None and target is not None:
                write_sparse(descriptor, piece, position, target)
            position += len(piece)
            on_progress(file.position, file.size)
        if declared.size_bytes not in (None, position):
            raise DamagedArchive(name, f"declares {declared.size_bytes} bytes and holds {position}")
        if not position:
            raise DamagedArchive(name, "holds nothing")
        if descriptor is not None and target is not None:
            try:
                os.ftruncate(descriptor, position)
            except OSError as exc:
                raise write_error(target, exc) from exc
            flush(descriptor, target)
    return Unpacked(kind, position, digest.hexdigest())


def _declared(kind: Format, file: _File, name: str) -> Declared:
    match kind:
        case Format.XZ:
            return declared_by_xz(file, name)
        case Format.ZSTD:
            return declared_by_zstd(file, name)
        case Format.RAW:
            return Declared(file.size)
        case Format.GZIP | Format.ZIP:
            return Declared(None)  # gzip knows it modulo 4 GiB only; zip is asked when its member is chosen


def _pieces(kind: Format, file: _File, source: Path, name: str) -> Generator[bytes, None, None]:
    """The raw image in pieces of at most ``PIECE_BYTES``."""
    match kind:
        case Format.XZ:
            return _from_xz(file, name)
        case Format.ZSTD:
            return _from_zstd(file, name)
        case Format.GZIP:
            return _from_gzip(file, name)
        case Format.ZIP:
            return _from_zip(file, source, name)
        case Format.RAW:
            return _from_raw(file)


def _from_raw(file: _File) -> Generator[bytes, None, None]:
    while piece := file.read(PIECE_BYTES):
        yield piece


def _from_xz(file: _File, name: str) -> Generator[bytes, None, None]:
    """All streams of the file, one after another, and the zeros that may lie between them."""
    data = b""
    while True:
        data = (data or file.read(INPUT_BYTES)).lstrip(b"\0")  # padding: declared_by_xz has checked its place
        if not data:
            if file.position >= file.size:
                return
            continue
        decoder = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)
        try:
            while not decoder.eof:
                if decoder.needs_input and not data and not (data := file.read(INPUT_BYTES)):
                    raise DamagedArchive(name, f"is cut short at byte {file.size}")
                if piece := decoder.decompress(data, PIECE_BYTES):
                    yield piece
                data = b""
        except lzma.LZMAError as exc:
            raise DamagedArchive(name, f"does not unpack near byte {file.position}: {exc}") from exc
        data = decoder.unused_data


def _from_zstd(file: _File, name: str) -> Generator[bytes, None, None]:
    decoder = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
    try:
        with decoder.stream_reader(
            file,  # type: ignore[arg-type]  # it has read(), which is all that is called
            read_size=INPUT_BYTES,
            read_across_frames=True,
            closefd=False,
        ) as plain:
            while piece := plain.read(PIECE_BYTES):
                yield piece
    except zstandard.ZstdError as exc:
        raise DamagedArchive(name, f"does not unpack near byte {file.position}: {exc}") from exc
    if file.position != file.size:
        raise DamagedArchive(name, f"unpacking ended at byte {file.position} of {file.size}")


def _from_gzip(file: _File, name: str) -> Generator[bytes, None, None]:
    """All members of the file; zeros behind the last are padding (gzip itself ignores them)."""
    data = b""
    first = True
    while True:
        data = data or file.read(INPUT_BYTES)
        if not first:
            data = data.lstrip(b"\0")
        if not data:
            if file.position >= file.size:
                return
            continue
        first = False
        decoder = zlib.decompressobj(wbits=31)
        try:
            while not decoder.eof:
                if not data and not (data := file.read(INPUT_BYTES)):
                    raise DamagedArchive(name, f"is cut short at byte {file.size}")
                piece = decoder.decompress(data, PIECE_BYTES)
                data = decoder.unconsumed_tail
                if piece:
                    yield piece
        except zlib.error as exc:
            raise DamagedArchive(name, f"does not unpack near byte {file.position}: {exc}") from exc
        data = decoder.unused_data


def _from_zip(file: _File, source: Path, name: str) -> Generator[bytes, None, None]:
    """The one disk image of a zip archive."""
    try:
        with zipfile.ZipFile(source) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            images = [member for member in members if member.filename.endswith(".img")] or members
            if len(images) != 1:
                listed = ", ".join(repr(member.filename) for member in images[:5]) or "nothing"
                raise DamagedArchive(name, f"must hold exactly one image, holds {listed}")
            packed = max(images[0].compress_size, 1)
            done = 0
            with archive.open(images[0]) as plain:
                while piece := plain.read(PIECE_BYTES):
                    done += len(piece)
                    file.position = min(file.size, file.size * done // max(images[0].file_size, packed))
                    yield piece
            if done != images[0].file_size:
                raise DamagedArchive(name, f"declares {images[0].file_size} bytes and holds {done}")
    except _ZIP_FAULTS as exc:
        raise DamagedArchive(name, f"does not unpack: {exc}") from exc


def _read_ahead(pieces: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
    """``pieces``, made in a thread that is at most ``AHEAD`` pieces ahead and ends with this generator."""
    line: queue.Queue[bytes | BaseException | None] = queue.Queue(AHEAD)
    stop = threading.Event()

    def put(item: bytes | BaseException | None) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                line.put(item, timeout=0.2)
                return

    def produce() -> None:
        try:
            with contextlib.closing(pieces):
                for piece in pieces:
                    put(piece)
                    if stop.is_set():
                        return
            put(None)
        except BaseException as exc:  # handed to the consumer, which raises it
            put(exc)

    worker = threading.Thread(target=produce, name="unpack", daemon=True)
    worker.start()
    try:
        while (item := line.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        worker.join()
