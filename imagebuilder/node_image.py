"""One node's whole image as a file, and deltas laid over images.

A file appears under its name when everything in it was read back. It holds the node's single-use ticket, so
only its owner may read it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from imagebuilder.delta_file import DeltaFile, require_applicable
from imagebuilder.disk.edit import ReadBackFailed
from imagebuilder.disk.source import FileSource, open_source
from imagebuilder.errors import ImageBuilderError
from imagebuilder.flash.source import Patch, RawImage, open_raw
from imagebuilder.flash.target import FlashTarget
from imagebuilder.flash.writer import FlashJob, OnProgress, Outcome
from imagebuilder.store import require_room
from imagebuilder.writing import write_at


def write_node_image(
    source: RawImage,
    patches: Sequence[Patch],
    target: Path,
    *,
    marker: bytes = b"",
    on_progress: OnProgress = lambda phase, done, total: None,
) -> Outcome:
    """Write the image with a node's delta as a sparse file, read back past the page cache.

    Args:
        source: the image.
        patches: the delta.
        target: the file; replaced when the new one is complete.
        marker: see ``FlashJob``.

    Raises:
        NoSpace: the target's filesystem is too full.
        FlashError: the file does not hold what was written; nothing is left of it.
        ImageBuilderError: the target cannot be written.
    """
    require_room(target.parent, source.mapped_bytes)
    descriptor, name = _temporary(target)
    part = Path(name)
    try:
        os.ftruncate(descriptor, source.size_bytes)
        with FlashTarget(part) as medium:
            outcome = FlashJob(
                source, medium, patches, marker=marker, grow=False, on_progress=on_progress
            ).run()
        _publish(descriptor, part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return outcome


def require_writable(target: Path) -> None:
    """Raise ``ImageBuilderError`` where no file can be made: before a node is given a ticket for it."""
    descriptor, name = _temporary(target)
    os.close(descriptor)
    Path(name).unlink()


def write_delta(delta: DeltaFile, target: Path) -> None:
    """Write a delta as a file, in one step.

    Raises:
        ImageBuilderError: the target cannot be written.
    """
    descriptor, name = _temporary(target)
    part = Path(name)
    try:
        part.write_text(delta.render(), encoding="utf-8")
        _publish(descriptor, part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def apply_to_copy(
    delta: DeltaFile, image: Path, target: Path, on_progress: OnProgress = lambda phase, done, total: None
) -> Outcome:
    """Write ``image`` with the delta as a new file; the image stays as it is.

    Raises:
        DeltaError: the delta is of another image.
        FlashError, NoSpace, ImageBuilderError: as ``write_node_image``.
    """
    with open_source(image) as source:
        require_applicable(delta, source, image.stat().st_size)
    patches = [Patch(patch.offset, patch.data) for patch in delta.patches]
    with open_raw(image, delta.image_id) as raw:
        return write_node_image(raw, patches, target, on_progress=on_progress)


def apply_in_place(delta: DeltaFile, image: Path) -> bool:
    """Lay the delta over an image or a written card, and read it back.

    The disk signature changes last. A run that is interrupted can be repeated.

    Returns:
        False where the delta was there already.

    Raises:
        DeltaError: the delta is of another image; nothing was written.
        ReadBackFailed: what is on the medium is not what was written.
        ImageBuilderError: the image cannot be written.
    """
    try:
        descriptor = os.open(image, os.O_RDWR | os.O_CLOEXEC | os.O_EXCL)
    except OSError as exc:
        raise ImageBuilderError(
            f"{image} cannot be written: {exc.strerror}",
            "Take a file that is yours, or a disk that is not mounted; or write a copy: -o FILE.",
        ) from exc
    try:
        source = FileSource(descriptor)
        if not require_applicable(delta, source, os.lseek(descriptor, 0, os.SEEK_END)):
            return False
        for patch in reversed(delta.patches):
            write_at(descriptor, patch.data, patch.offset, image)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        for patch in delta.patches:
            if source.read_at(patch.offset, len(patch.data)) != patch.data:
                raise ReadBackFailed(f"{image}, byte {patch.offset}", "the delta", "other bytes")
    finally:
        os.close(descriptor)
    return True


def _temporary(target: Path) -> tuple[int, str]:
    """A file of the owner's alone next to the target."""
    try:
        return tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as exc:
        raise ImageBuilderError(
            f"{target} cannot be written: {exc.strerror}",
            "Name a file in a directory that is there and yours.",
        ) from exc


def _publish(descriptor: int, part: Path, target: Path) -> None:
    os.fsync(descriptor)
    try:
        part.replace(target)
    except OSError as exc:
        raise ImageBuilderError(f"{target} cannot be replaced: {exc.strerror}", "Name another file.") from exc
    directory = os.open(target.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
