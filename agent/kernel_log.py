"""The kernel's log, read for the few lines that tell of failing storage. Source: kernel
Documentation/ABI/testing/dev-kmsg.

Every read of /dev/kmsg gives one record, `priority,sequence,microseconds,flags;text`; continuation lines
begin with a blank. The file is kept open, so a report costs as many reads as there are new records.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

RECORD_BYTES = 8192
MAX_RECORDS = 5000
"""Per report: a flood of messages must not become a flood of work. The rest is read the next time."""

_IO_ERROR = re.compile(
    rb"I/O error, dev (?!loop|ram|zram|sr|fd|nbd)\w"
    rb"|Buffer I/O error on dev(?:ice)? (?!loop|ram|zram|sr|fd|nbd)\w"
    rb"|critical (?:medium|target) error, dev \w"
    rb"|nvme nvme\d+: (?:I/O .*timeout|controller is down|Device not ready)"
    rb"|mmc\d+: (?:Timeout waiting for hardware|error -\d+ whilst|tuning execution failed)"
)
_FILESYSTEM_ERROR = re.compile(
    rb"EXT4-fs error \(device|Remounting filesystem read-only|XFS \(.*\): .*[Cc]orruption"
)


@dataclass(frozen=True)
class LogCounts:
    """Lines of each kind since boot, as far back as the kernel's buffer went when the agent started."""

    io_errors: int = 0
    filesystem_errors: int = 0


def count_records(records: bytes, counts: LogCounts) -> LogCounts:
    """`counts` and what these records add. Lines of programs (syslog facility other than 0) do not count."""
    io_errors, filesystem_errors = counts.io_errors, counts.filesystem_errors
    for line in records.split(b"\n"):
        prefix, separator, text = line.partition(b";")
        priority = prefix.split(b",", 1)[0]
        if not separator or not priority.isdigit() or int(priority) >= 8:
            continue
        if _IO_ERROR.search(text):
            io_errors += 1
        elif _FILESYSTEM_ERROR.search(text):
            filesystem_errors += 1
    return LogCounts(io_errors, filesystem_errors)


class KernelLog:
    """Owns an open /dev/kmsg."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._counts = LogCounts()

    def read(self) -> LogCounts | None:
        """Totals up to now; None where the log may not be read."""
        if self._file is None:
            try:
                self._file = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                return None
        for _ in range(MAX_RECORDS):
            try:
                record = os.read(self._file, RECORD_BYTES)
            except BlockingIOError:
                break
            except OSError as exc:
                if exc.errno == errno.EPIPE:
                    continue  # overwritten before it was read; the next read goes on behind the gap
                return None
            if not record:
                break
            self._counts = count_records(record, self._counts)
        return self._counts

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None
