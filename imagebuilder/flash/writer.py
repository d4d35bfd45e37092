"""One image, with one node's delta, onto one medium.

    invalidate   the first and the last MiB become zeros: nothing boots from here on
    write        every mapped piece but the first MiB; a sector in it notes how far
    verify       everything is read back from the medium; what differs is written again
    commit       the first MiB, sector 0 with the partition table as the very last write

A medium that was taken out in between starts nothing, and can be gone on with: what the note says is there is
read, not trusted, and only what differs is written again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from imagebuilder.disk.mbr import SECTOR_BYTES
from imagebuilder.flash.errors import FlashError, TargetRefused
from imagebuilder.flash.head import grown_head
from imagebuilder.flash.source import Patch, Piece, RawImage, loose_patches

HEAD_BYTES: Final = 2**20
"""Held back: partition table, GPT entries, and the gap before the first partition."""
NOTE_OFFSET: Final = HEAD_BYTES - SECTOR_BYTES
NOTE_MAGIC: Final = b"bramble flash 1\n"
FLUSH_EVERY_BYTES: Final = 64 * 2**20
"""Bounds dirty memory and keeps the progress honest: a reader of 10 MB/s is at most seconds behind."""
ROUNDS: Final = 3
"""Times that a range may come back wrong before the medium counts as broken."""


class Phase(StrEnum):
    """What is being done; for people, and in the record."""

    WRITE = "writing"
    VERIFY = "verifying"
    COMMIT = "committing"
    DONE = "done"


OnProgress = Callable[[Phase, int, int], None]
"""Called with the phase, and bytes done and in total within it."""


class Target(Protocol):
    """A medium, as `imagebuilder.flash.target.FlashTarget` offers it."""

    size_bytes: int

    def write_at(self, offset: int, data: bytes | memoryview) -> None: ...

    def flush(self) -> None: ...

    def read_back(self, offset: int, length: int) -> memoryview: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a finished flash did; all byte counts include the delta.

    Attributes:
        skipped_bytes: found on the medium from an interrupted flash of the same image.
        rewritten: ranges that came back wrong and were written again.
    """

    written_bytes: int
    skipped_bytes: int
    verified_bytes: int
    rewritten: tuple[tuple[int, int], ...]
    write_s: float
    verify_s: float


@dataclass(slots=True)
class FlashJob:
    """One run onto one medium.

    Args:
        source: the image.
        target: the medium.
        patches: the node's delta.
        marker: the last sector of the first MiB, by which an installer knows the installation; or nothing.
        verify: read everything back.
        grow: let the root partition reach to the medium's end.
        clock: seconds, monotonic.
    """

    source: RawImage
    target: Target
    patches: Sequence[Patch] = ()
    marker: bytes = b""
    verify: bool = True
    grow: bool = True
    on_progress: OnProgress = lambda phase, done, total: None
    clock: Callable[[], float] = time.monotonic
    _pieces: list[Piece] = field(init=False)
    _digests: dict[int, str] = field(init=False, default_factory=dict)
    _buffer: bytearray = field(init=False)
    _written: int = field(init=False, default=0)
    _unflushed: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        outside = loose_patches(self.source.pieces, self.patches)
        loose = [Piece(patch.offset, len(patch.data)) for patch in outside]
        pieces = sorted([*self.source.pieces, *loose], key=lambda piece: piece.offset)
        self._pieces = [part for piece in pieces if (part := _after_head(piece))]
        self._buffer = bytearray(max((piece.length for piece in self._pieces), default=0))

    def run(self) -> Outcome:
        """Write, verify, commit.

        Raises:
            TargetRefused: the medium is too small, or the delta is of another image; nothing was touched.
            FlashError: the medium failed, or does not hold what was written; it does not boot then.
        """
        self._require_fit()
        resume_at = self._find_note()
        started = self.clock()
        if resume_at == 0:
            self._invalidate()
        else:  # power may have failed in the middle of the commit
            self.target.write_at(0, bytes(NOTE_OFFSET))
            self.target.flush()
        skipped = self._write_all(resume_at)
        written_at = self.clock()
        rewritten = self._verify_all() if self.verify else ()
        self.on_progress(Phase.COMMIT, 0, HEAD_BYTES)
        self._commit()
        total = self.source.mapped_bytes
        self.on_progress(Phase.DONE, total, total)
        return Outcome(
            written_bytes=self._written,
            skipped_bytes=skipped,
            verified_bytes=sum(piece.length for piece in self._pieces) + HEAD_BYTES if self.verify else 0,
            rewritten=tuple(rewritten),
            write_s=written_at - started,
            verify_s=self.clock() - written_at,
        )

    def _require_fit(self) -> None:
        size = self.source.size_bytes
        if size < HEAD_BYTES:
            raise TargetRefused(
                f"the image has {size} bytes, less than a partition table takes", "Name a disk image."
            )
        if self.target.size_bytes < size:
            raise TargetRefused(
                f"the medium has {self.target.size_bytes} bytes, the image needs {size}",
                "Take a larger one; cards of one nominal size differ by some percent.",
            )
        if any(patch.offset < 0 or patch.end > size for patch in self.patches):
            raise TargetRefused(
                "the node delta writes past the image", "It belongs to another image; build that again."
            )

    def _find_note(self) -> int:
        """Up to where an interrupted flash of the very same image came; 0 where nothing says so."""
        sector = bytes(self.target.read_back(NOTE_OFFSET, SECTOR_BYTES))
        if not sector.startswith(NOTE_MAGIC) or any(self.target.read_back(0, SECTOR_BYTES)):
            return 0
        try:
            note = json.loads(sector[len(NOTE_MAGIC) :].rstrip(b"\0"))
            same = note["image"] == self.source.identity and note["size"] == self.source.size_bytes
            return max(0, int(note["done"])) if same else 0
        except (ValueError, KeyError, TypeError):
            return 0

    def _put_note(self, done: int) -> None:
        note = {"image": self.source.identity, "size": self.source.size_bytes, "done": done}
        text = NOTE_MAGIC + json.dumps(note, separators=(",", ":")).encode()
        self.target.write_at(NOTE_OFFSET, text.ljust(SECTOR_BYTES, b"\0"))
        self.target.flush()

    def _invalidate(self) -> None:
        size = self.target.size_bytes
        zeros = bytes(min(HEAD_BYTES, size))
        self.target.write_at(0, zeros)
        self.target.flush()
        self.target.write_at(size - len(zeros), zeros)
        self.target.flush()
        if any(self.target.read_back(0, SECTOR_BYTES)):
            raise FlashError(
                "the first sector still holds data after it was overwritten with zeros",
                "The medium is write-protected or worn out; replace it.",
            )

    def _write_all(self, resume_at: int) -> int:
        total = sum(piece.length for piece in self._pieces)
        done = skipped = 0
        for piece in self._pieces:
            view = self._load(piece)
            if piece.end <= resume_at and self.target.read_back(piece.offset, piece.length) == view:
                skipped += piece.length
            else:
                self._put(piece.offset, view)
            done += piece.length
            self.on_progress(Phase.WRITE, done, total)
            if self._unflushed >= FLUSH_EVERY_BYTES:
                self.target.flush()
                self._put_note(piece.end)
                self._unflushed = 0
        self.target.flush()
        self._put_note(self.source.size_bytes)
        return skipped

    def _load(self, piece: Piece) -> memoryview:
        """The piece with the delta laid over it; valid until the next call. Its digest is noted."""
        view = memoryview(self._buffer)[: piece.length]
        self.source.read_into(view, piece.offset)
        patched = False
        for patch in self.patches:
            if part := patch.clip(piece.offset, piece.end):
                view[part.offset - piece.offset : part.end - piece.offset] = part.data
                patched = True
        if self.verify and piece.offset not in self._digests:
            known = None if patched else piece.sha256
            self._digests[piece.offset] = known or hashlib.sha256(view).hexdigest()
        return view

    def _put(self, offset: int, view: memoryview) -> None:
        self.target.write_at(offset, view)
        self._written += len(view)
        self._unflushed += len(view)

    def _verify_all(self) -> list[tuple[int, int]]:
        """Read back every piece; returns the ranges that had to be written again.

        Raises:
            FlashError: a range keeps coming back wrong.
        """
        rewritten: list[tuple[int, int]] = []
        head = self.target.read_back(0, NOTE_OFFSET)
        if bytes(head).strip(b"\0"):
            raise FlashError(
                "the first MiB was cleared, and holds data that was written to another place",
                "The medium says that it is larger than it is: it is counterfeit. Replace it.",
            )
        # Every round reads everything: on a medium that wraps, mending one range spoils another.
        wrong = self._differing()
        for _ in range(ROUNDS - 1):
            if not wrong:
                break
            rewritten.extend((piece.offset, piece.length) for piece in wrong)
            for piece in wrong:
                self._put(piece.offset, self._load(piece))
            self.target.flush()
            wrong = self._differing()
        if not wrong:
            return rewritten
        places = ", ".join(f"{piece.offset}–{piece.end - 1}" for piece in wrong[:5])
        raise FlashError(
            f"{len(wrong)} ranges read back other bytes than were written, {ROUNDS} times: bytes {places}",
            "The medium is worn out, or says that it is larger than it is; replace it.",
        )

    def _differing(self) -> list[Piece]:
        total = sum(piece.length for piece in self._pieces)
        done, wrong = 0, []
        for piece in self._pieces:
            digest = hashlib.sha256(self.target.read_back(piece.offset, piece.length)).hexdigest()
            if digest != self._digests[piece.offset]:
                wrong.append(piece)
            done += piece.length
            self.on_progress(Phase.VERIFY, done, total)
        return wrong

    def _commit(self) -> None:
        head = bytearray(HEAD_BYTES)
        for piece in self.source.pieces:
            if piece.offset < HEAD_BYTES:
                end = min(piece.end, HEAD_BYTES)
                self.source.read_into(memoryview(head)[piece.offset : end], piece.offset)
        for patch in self.patches:
            if part := patch.clip(0, HEAD_BYTES):
                head[part.offset : part.end] = part.data
        if self.marker:
            head[NOTE_OFFSET:] = self.marker.ljust(SECTOR_BYTES, b"\0")
        if self.grow:
            head[:SECTOR_BYTES] = grown_head(bytes(head[:SECTOR_BYTES]), self.target.size_bytes)
        self._commit_bytes(SECTOR_BYTES, bytes(head[SECTOR_BYTES:]))
        self._commit_bytes(0, bytes(head[:SECTOR_BYTES]))

    def _commit_bytes(self, offset: int, data: bytes) -> None:
        self.target.write_at(offset, data)
        self.target.flush()
        self._written += len(data)
        if self.target.read_back(offset, len(data)) != data:
            if offset == 0:
                self.target.write_at(0, bytes(SECTOR_BYTES))  # what cannot be proven must not boot
                self.target.flush()
            raise FlashError(
                f"the boot blocks at byte {offset} read back other bytes than were written",
                "The medium is failing; replace it.",
            )


def _after_head(piece: Piece) -> Piece | None:
    """The part of a piece behind the first MiB; its digest is known only where that is the whole piece."""
    if piece.offset >= HEAD_BYTES:
        return piece
    return Piece(HEAD_BYTES, piece.end - HEAD_BYTES) if piece.end > HEAD_BYTES else None
