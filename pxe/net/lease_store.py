"""Leases on disk: one JSON object a line, appended and synced before the reply is sent.

The last line about an address holds. A line that a crash tore in two, or that somebody spoiled, costs that
lease and nothing else. The file is written anew when it is opened and when it has grown far beyond what it
says.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from fleet.boards import MacAddress
from pxe.dhcp.leases import Lease, LeaseState
from pxe.errors import PxeError

FORMAT_VERSION: Final = 1
COMPACT_AFTER_LINES: Final = 10_000


def encode_lease(lease: Lease) -> bytes:
    """A line of the file, with its end."""
    record = {
        "v": FORMAT_VERSION,
        "address": str(lease.address),
        "mac": str(lease.mac),
        "state": lease.state.value,
        "expires": lease.expires,
    }
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def parse_lease(line: bytes) -> Lease | None:
    """A lease from a line; None where the line is not one."""
    try:
        record = json.loads(line)
        if record["v"] != FORMAT_VERSION or not math.isfinite(record["expires"]):
            return None
        return Lease(
            address=IPv4Address(record["address"]),
            mac=MacAddress.parse(record["mac"]),
            state=LeaseState(record["state"]),
            expires=float(record["expires"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
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
        self.leases: list[Lease] = []
        self.corrupt_lines = 0
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._load()
            self.rewrite(self.leases)
        except OSError as error:
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

    @property
    def needs_rewrite(self) -> bool:
        """Whether the file has grown so far that `rewrite` is worth its time."""
        return self._lines >= COMPACT_AFTER_LINES

    def append(self, leases: Iterable[Lease]) -> None:
        """Store leases; they are on the disk when this returns. One sync, however many they are.

        Raises:
            OSError: they may not be there; hand them in again, a lease that stands twice does no harm.
        """
        lines = [encode_lease(lease) for lease in leases]
        if lines:
            data = b"".join(lines)
            if self._torn:
                data = b"\n" + data  # after what the failed call may have left of a line
            self._torn = True
            while data:
                data = data[os.write(self._fd, data) :]
            os.fdatasync(self._fd)
            self._torn = False
            self._lines += len(lines)

    def rewrite(self, leases: Iterable[Lease]) -> None:
        """Replace the file by one with exactly these leases, or leave it as it is."""
        fresh = self._path.with_name(f"{self._path.name}.new")
        lines = [encode_lease(lease) for lease in leases]
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            data = b"".join(lines)
            while data:
                data = data[os.write(fd, data) :]
            os.fsync(fd)
            fresh.replace(self._path)
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except BaseException:
            os.close(fd)
            raise
        self.close()
        self._fd = fd
        self._torn = False
        self._lines = len(lines)

    def close(self) -> None:
        """Close the file; nothing is pending."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _load(self) -> None:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        latest: dict[IPv4Address, Lease] = {}
        for line in data.split(b"\n"):
            if not line:
                continue
            lease = parse_lease(line)
            if lease is None:
                self.corrupt_lines += 1
            else:
                latest.pop(lease.address, None)
                latest[lease.address] = lease
        self.leases = list(latest.values())
