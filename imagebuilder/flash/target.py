"""The medium: writes, flushes, and reads that come from it and not from the page cache."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Final

from imagebuilder.flash.errors import FlashError

DIRECT_ALIGNMENT: Final = 4096
"""O_DIRECT wants offset, length and memory aligned to the logical block, 512 or 4096 bytes."""
BLKFLSBUF: Final = 0x1261  # linux/fs.h: drop the buffer cache of a block device
BLKRRPART: Final = 0x125F  # linux/fs.h: read the partition table again


class FlashTarget:
    """A block device, or a regular file of fixed size, for one flash at a time.

    A block device is opened with O_EXCL, which the kernel refuses while it is mounted or held; and it is
    locked, which keeps udev from probing it half written and a second flash from starting.

    Raises:
        FlashError: from the constructor, when it cannot be opened, is busy, or is neither of the two.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_EXCL)
        except OSError as exc:
            raise _open_error(path, exc) from exc
        try:
            self._kind = os.fstat(self._fd).st_mode
            if not stat.S_ISBLK(self._kind) and not stat.S_ISREG(self._kind):
                raise FlashError(
                    f"{path} is neither a block device nor a file",
                    "Name the whole disk, like /dev/sdb; 'bramble flash --list' shows the candidates.",
                )
            self._lock()
            self.size_bytes = os.lseek(self._fd, 0, os.SEEK_END)
        except BaseException:
            os.close(self._fd)
            raise
        self._direct = self._open_direct()
        self._buffer = mmap.mmap(-1, DIRECT_ALIGNMENT)

    def __enter__(self) -> FlashTarget:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._direct is not None:
            os.close(self._direct)
            self._direct = None
        os.close(self._fd)

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of ``data``.

        Raises:
            FlashError: the medium refuses, or is gone.
        """
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._fd, view, offset)
                view = view[written:]
                offset += written
        except OSError as exc:
            raise self._failure("writing", offset, exc) from exc

    def flush(self) -> None:
        """Everything written is on the medium when this returns."""
        try:
            os.fdatasync(self._fd)
        except OSError as exc:
            raise self._failure("flushing", 0, exc) from exc

    def read_back(self, offset: int, length: int) -> memoryview:
        """The bytes as the medium has them; the view is valid until the next call.

        Raises:
            FlashError: the medium does not give them back.
        """
        start = offset // DIRECT_ALIGNMENT * DIRECT_ALIGNMENT
        span = -(-(offset + length) // DIRECT_ALIGNMENT) * DIRECT_ALIGNMENT - start
        if len(self._buffer) < span:
            self._buffer = mmap.mmap(-1, span)
        view = memoryview(self._buffer)[:span]
        try:
            count = self._read(view, start)
        except OSError as exc:
            raise self._failure("reading back", offset, exc) from exc
        if count < offset - start + length:
            raise FlashError(
                f"{self.path} ends at byte {start + count}, where {offset + length} were written",
                "It lost its connection, or is smaller than it says. Try another reader; then replace it.",
            )
        return view[offset - start : offset - start + length]

    def reread_partitions(self) -> None:
        """Let the kernel see the new partitions; without effect on files, and where it refuses."""
        if stat.S_ISBLK(self._kind):
            try:
                fcntl.ioctl(self._fd, BLKRRPART)
            except OSError:
                return  # the next time that it is plugged in

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise FlashError(
                f"{self.path} is being written by another program",
                "Wait until that has ended.",
            ) from exc

    def _read(self, view: memoryview, start: int) -> int:
        if self._direct is not None:
            try:
                return _read_fully(self._direct, view, start)
            except OSError as exc:
                if exc.errno != errno.EINVAL:  # EINVAL: this medium has another alignment
                    raise
                os.close(self._direct)
                self._direct = None
        os.posix_fadvise(self._fd, start, len(view), os.POSIX_FADV_DONTNEED)
        if stat.S_ISBLK(self._kind):
            fcntl.ioctl(self._fd, BLKFLSBUF, 0)
        return _read_fully(self._fd, view, start)

    def _open_direct(self) -> int | None:
        try:
            return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        except OSError:
            return None  # its filesystem has no O_DIRECT: the cache is dropped before reading instead

    def _failure(self, action: str, offset: int, exc: OSError) -> FlashError:
        gone = exc.errno in (errno.ENODEV, errno.ENXIO, errno.ENOMEDIUM)
        what = "it was taken out" if gone else exc.strerror or str(exc)
        return FlashError(
            f"{self.path}: {action} at byte {offset} failed: {what}",
            "Put it back and run the same command again: it goes on where it stopped."
            if gone
            else "Try another reader or port; if it happens again the medium is failing: replace it.",
        )


def _open_error(path: Path, exc: OSError) -> FlashError:
    match exc.errno:
        case errno.ENOENT:
            hint = "'bramble flash --list' shows the disks that there are."
        case errno.EBUSY:
            hint = "It is mounted, or part of an array or volume group; release it first."
        case errno.EACCES | errno.EPERM:
            hint = "Writing to disks is root's right: run it with sudo -E, or join the group 'disk'."
        case errno.ENOMEDIUM:
            hint = "Put a card into the reader."
        case errno.EROFS:
            hint = "It is write-protected: slide the card's lock."
        case _:
            hint = "'bramble flash --list' shows the candidates."
    return FlashError(f"{path} cannot be opened for writing: {exc.strerror}", hint)


def _read_fully(fd: int, view: memoryview, offset: int) -> int:
    """Fill ``view``; fewer bytes only at the end of the medium."""
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], offset + done)
        if count == 0:
            break
        done += count
        if count % DIRECT_ALIGNMENT:
            break  # the end; a further O_DIRECT read would not be aligned
    return done
