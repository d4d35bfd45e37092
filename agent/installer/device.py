"""The target disk: writes, flushes, and reads that come from the medium and not from the page cache."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
from pathlib import Path
from types import TracebackType

from agent.errors import AgentError

DIRECT_ALIGNMENT = 4096
"""O_DIRECT wants offset, length and memory aligned to the logical block: 512 or 4096 bytes; 4096 fits
both."""
VIEWS_KEPT = 2
"""What `read_back` gave in so many calls before the last one stays valid: it is hashed meanwhile."""
BLKFLSBUF = 0x1261
"""Drop the buffer cache of a block device. Source: linux/fs.h"""


class TargetDisk:
    """A block device (or, in rehearsals, a regular file) opened for one install.

    A block device is opened with O_EXCL: the kernel refuses it while it is mounted or part of an array.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_EXCL)
        except OSError as exc:
            raise AgentError(
                f"{path} can not be opened for writing: {exc.strerror}",
                "Is the disk in use (mounted, RAID, LVM), or its write protection on?",
            ) from exc
        self._is_block = stat.S_ISBLK(os.fstat(self._fd).st_mode)
        self._direct_fd = self._open_direct()
        self._buffers = [mmap.mmap(-1, DIRECT_ALIGNMENT) for _ in range(1 + VIEWS_KEPT)]
        self.size_bytes = os.lseek(self._fd, 0, os.SEEK_END)

    def __enter__(self) -> TargetDisk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for fd in (self._fd, self._direct_fd):
            if fd is not None:
                os.close(fd)
        self._direct_fd = None

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data`; the disk begins with it at once, and has it for sure after `flush`.

        Raises:
            AgentError: the device refused (I/O error, no space, gone).
        """
        start, view = offset, memoryview(data)
        try:
            while view:
                written = os.pwrite(self._fd, view, offset)
                view = view[written:]
                offset += written
        except OSError as exc:
            raise self._failure("writing", offset, exc) from exc
        # Linux answers this hint by writing dirty pages back (mm/fadvise.c): without it the disk idles until
        # the flush, and the source waits then. With a source of 1 GB/s a third of the waiting is left.
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._fd, start, len(data), os.POSIX_FADV_DONTNEED)

    def flush(self) -> None:
        """Everything written is on the medium when this returns."""
        try:
            os.fsync(self._fd)
        except OSError as exc:
            raise self._failure("flushing", 0, exc) from exc

    def read_back(self, offset: int, length: int) -> memoryview:
        """The bytes as the medium has them. The view is valid for `VIEWS_KEPT` further calls.

        Raises:
            AgentError: the medium does not give them back.
        """
        start = offset // DIRECT_ALIGNMENT * DIRECT_ALIGNMENT
        span = -(-(offset + length) // DIRECT_ALIGNMENT) * DIRECT_ALIGNMENT - start
        buffer = self._buffers.pop(0)
        if len(buffer) < span:
            buffer = mmap.mmap(-1, span)
        self._buffers.append(buffer)
        view = memoryview(buffer)[:span]
        try:
            count = self._read(view, start)
        except OSError as exc:
            raise self._failure("reading back", offset, exc) from exc
        if count < offset - start + length:
            raise AgentError(
                f"{self.path} ends at {start + count} bytes where {offset + length} were written",
                "The disk lost its connection, or is smaller than it says; replace it.",
            )
        return view[offset - start : offset - start + length]

    def _read(self, view: memoryview, start: int) -> int:
        if self._direct_fd is not None:
            try:
                return _read_fully(self._direct_fd, view, start)
            except OSError as exc:
                if (
                    exc.errno != 22
                ):  # EINVAL: this device wants another alignment, or its filesystem no O_DIRECT
                    raise
                os.close(self._direct_fd)
                self._direct_fd = None
        os.posix_fadvise(self._fd, start, len(view), os.POSIX_FADV_DONTNEED)
        if self._is_block:
            fcntl.ioctl(self._fd, BLKFLSBUF, 0)
        return _read_fully(self._fd, view, start)

    def _open_direct(self) -> int | None:
        try:
            return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        except OSError:
            return None  # the filesystem has no O_DIRECT: reading falls back to dropping the cache

    def _failure(self, action: str, offset: int, exc: OSError) -> AgentError:
        return AgentError(
            f"{self.path}: {action} at {offset} bytes failed: {exc.strerror}",
            "The medium or its connection is failing (look for under-voltage); reseat or replace it.",
        )


def _read_fully(fd: int, view: memoryview, offset: int) -> int:
    """Fill `view`; fewer bytes only at the end of the device."""
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], offset + done)
        if count == 0:
            break
        done += count
        if count % DIRECT_ALIGNMENT:
            break  # the end of the device; a further O_DIRECT read would be misaligned
    return done
