"""Leases on disk: one JSON object a line, appended and synced before the reply is sent.

The last line about an address holds. A line that a crash tore in two, or that somebody spoiled, costs that
lease and nothing else. The file is written anew when it is opened and when it has grown far beyond what it
says: a new file takes the leases in slices and everything that is appended meanwhile, and then the name.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from fleet.boards import BoardError, MacAddress
from pxe.dhcp.leases import Lease, LeaseState
from pxe.errors import PxeError

FORMAT_VERSION: Final = 1
COMPACT_AFTER_LINES: Final = 10_000
COMPACT_FACTOR: Final = 4
"""The file is written anew when it has so many lines for each lease, and `COMPACT_AFTER_LINES` at least."""
MAXIMUM_LINE_BYTES: Final = 512
SLICE_LEASES: Final = 256
"""Encoded at a time while replies wait: about a millisecond."""


def encode_lease(lease: Lease) -> bytes:
    """A line of the file, with its end. What stands between the quotes never needs an escape."""
    return (
        f'{{"v":{FORMAT_VERSION},"address":"{lease.address}","mac":"{lease.mac}",'
        f'"state":"{lease.state.value}","expires":{float(lease.expires)!r}}}\n'
    ).encode("ascii")


def parse_lease(line: bytes) -> Lease | None:
    """A lease from a line; None where the line is not one."""
    if len(line) > MAXIMUM_LINE_BYTES:
        return None
    try:
        record = json.loads(line)
        if record["v"] != FORMAT_VERSION or not all(
            isinstance(record[key], str) for key in ("address", "mac", "state")
        ):
            return None
        expires = record["expires"]
        if isinstance(expires, bool) or not isinstance(expires, int | float) or not math.isfinite(expires):
            return None
        return Lease(
            address=IPv4Address(record["address"]),
            mac=MacAddress.parse(record["mac"]),
            state=LeaseState(record["state"]),
            expires=float(expires),
        )
    except (
        ValueError,
        KeyError,
        TypeError,
        OverflowError,
        RecursionError,
        AddressValueError,
        BoardError,
    ):
        return None


class LeaseStore:
    """The lease file of one cluster. One process has it open.

    Args:
        path: the file; made when absent, mode 0600.

    Attributes:
        leases: what the file held, in its order; the last one about an address holds.
        corrupt_lines: lines that were no leases.

    Raises:
        PxeError: the file can not be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = 0
        self._fd = -1
        self._torn = False
        self._rewriting: _Rewriting | None = None
        self.leases: list[Lease] = []
        self.corrupt_lines = 0
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._load()
            for _slice in self.rewrite(self.leases):
                pass
        except OSError as error:
            self.close()
            raise PxeError(
                f"the lease file {path} can not be used: {error.strerror}",
                "Let the user that runs Bramble write there, or choose another state directory.",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def needs_rewrite(self, leases: int) -> bool:
        """Whether the file has grown so far beyond so many leases that `rewrite` is worth its time."""
        return self._rewriting is None and self._lines >= max(COMPACT_AFTER_LINES, COMPACT_FACTOR * leases)

    def append(self, leases: Iterable[Lease]) -> None:
        """Store leases; they are on the disk when this returns. One sync, however many they are.

        Raises:
            OSError: they may not be there; hand them in again, a lease that stands twice does no harm.
        """
        lines = [encode_lease(lease) for lease in leases]
        if not lines:
            return
        data = b"".join(lines)
        # What the failed call may have left of a line is ended first.
        whole = b"\n" + data if self._torn else data
        self._torn = True
        _write(self._fd, whole)
        os.fdatasync(self._fd)
        self._torn = False
        self._lines += len(lines)
        if self._rewriting is not None:
            self._rewriting.add(data, len(lines))

    def rewrite(self, leases: Iterable[Lease]) -> Iterator[None]:
        """Replace the file by one with these leases, or leave it as it is.

        What is appended from now on goes into both files. The iterator yields after every slice; until it has
        ended the old file stays in force, and whoever drops it gives the new one up.

        Raises:
            OSError: also while iterating; what was stored stays stored, and more can be appended.
        """
        fresh = self._path.with_name(f"{self._path.name}.new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        work = self._rewriting = _Rewriting(fd)
        slices = self._rewrite(work, fresh, leases)
        next(slices)  # from here on its end, whatever it is, closes the file
        return slices

    def _rewrite(self, work: _Rewriting, fresh: Path, leases: Iterable[Lease]) -> Iterator[None]:
        try:
            yield
            lines: list[bytes] = []
            for lease in leases:
                lines.append(encode_lease(lease))
                if len(lines) == SLICE_LEASES:
                    work.write(lines)
                    lines = []
                    yield
            work.write(lines)
            os.fsync(work.fd)  # the bulk, while appends still go on
            yield
            work.write_added()
            os.fsync(work.fd)
            fresh.replace(self._path)
        except BaseException:
            os.close(work.fd)
            self._rewriting = None
            raise
        self._rewriting = None
        self.close()
        self._fd = work.fd
        self._torn = False
        self._lines = work.lines
        _sync_directory(self._path.parent)

    def close(self) -> None:
        """Close the file; nothing is pending."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _load(self) -> None:
        latest: dict[IPv4Address, Lease] = {}
        for line in _lines_of(self._path):
            lease = parse_lease(line)
            if lease is None:
                self.corrupt_lines += 1
            else:
                latest.pop(lease.address, None)
                latest[lease.address] = lease
        self.leases = list(latest.values())


class _Rewriting:
    """A file that is being written, and what has to go into it at the end."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._added: list[bytes] = []
        self.lines = 0

    def write(self, lines: list[bytes]) -> None:
        _write(self.fd, b"".join(lines))
        self.lines += len(lines)

    def add(self, data: bytes, lines: int) -> None:
        self._added.append(data)
        self.lines += lines

    def write_added(self) -> None:
        _write(self.fd, b"".join(self._added))
        self._added = []


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a file that may hold anything: none of them makes the memory of this process large."""
    try:
        with path.open("rb") as file:
            while line := file.readline(MAXIMUM_LINE_BYTES + 2):
                whole = line
                while whole and not whole.endswith(b"\n"):
                    whole = file.readline(MAXIMUM_LINE_BYTES + 2)
                if stripped := line.rstrip(b"\n"):
                    yield stripped
    except FileNotFoundError:
        return
