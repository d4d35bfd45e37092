"""Save a member's data to a file, and know a sound file again.

    bytes 0 … n−33    the database (bbolt), whole pages
    bytes n−32 … n−1  SHA-256 over all before, appended by etcd

Written under another name, checked, flushed and renamed: under its own name a file is whole.

Source: etcd 3.5, server/etcdserver/api/v3rpc/maintenance.go (the digest is the last piece of the stream) and
    etcdutl/snapshot (size % 512 == 32 tells that there is one).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from fleet.etcd.client import EtcdClient
from fleet.etcd.errors import BadSnapshotError, EtcdError
from fleet.etcd.view import EtcdMember, EtcdView
from fleet.files import sync_directory

DIGEST_BYTES: Final = 32
PAGE_BYTES: Final = 512
"""The smallest that a database is made of."""
MIN_BYTES: Final = 4 * 4096 + DIGEST_BYTES
"""A bbolt file has four pages before anything is in it."""
MAX_BYTES: Final = 9 << 30
"""etcd advises at most 8 GiB of data."""
SILENCE_S: Final = 15.0
SPARE_BYTES: Final = 64 << 20
"""Left free on the disk: the control server's own record is there too."""
_BATCH: Final = 1 << 20
_BBOLT_MAGIC: Final = b"\xed\xda\x0c\xed"
"""0xED0CDAED, bytes 16–19 of the first page; little-endian, as all our machines are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedSnapshot:
    """What was written. `sha256` is of the whole file; `revision` is at least what it holds."""

    size_bytes: int
    sha256: str
    revision: int
    member: EtcdMember


async def save_snapshot(
    client: EtcdClient,
    view: EtcdView,
    target: Path,
    *,
    besides: str = "",
    tell: Callable[[int, int], None] = lambda _done, _total: None,
) -> SavedSnapshot:
    """Write the data of a healthy voter to `target` (0600).

    Args:
        besides: A node that is not to be asked if another one can be: the one that is about to go.
        tell: Called with bytes done and in all.

    Raises:
        EtcdError: No voter is healthy, or it broke off.
        BadSnapshotError: What came is not what etcd sent.
        OSError: The disk is full or refuses; nothing is left behind.
    """
    member = _choose(view, besides)
    partial = target.with_name(f".{target.name}.part")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            await _receive(client, member, stream, target.parent, tell)
            await asyncio.to_thread(_flush, stream)
        size, digest = await asyncio.to_thread(check_file, partial)
        partial.replace(target)
        await asyncio.to_thread(sync_directory, target.parent)
    finally:
        partial.unlink(missing_ok=True)
    return SavedSnapshot(size_bytes=size, sha256=digest, revision=member.revision, member=member)


def check_file(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a snapshot whose own digest is right.

    Raises:
        BadSnapshotError: It is no snapshot, or is cut off or damaged.
        OSError: It cannot be read.
    """
    size = path.stat().st_size
    if size < MIN_BYTES or size % PAGE_BYTES != DIGEST_BYTES:
        raise BadSnapshotError(
            f"{path} has {size} bytes, whole pages and a digest of {DIGEST_BYTES} bytes are expected: "
            "it is no snapshot of etcd, or is cut off",
            "Take another one, or another copy of it.",
        )
    whole, data = hashlib.sha256(), hashlib.sha256()
    with path.open("rb") as stream:
        left = size - DIGEST_BYTES
        is_first = True
        while left:
            block = stream.read(min(left, _BATCH))
            if not block:
                break
            if is_first and block[16:20] != _BBOLT_MAGIC:
                raise BadSnapshotError(f"{path} does not begin like etcd's database", "Is it the right file?")
            is_first = False
            data.update(block)
            whole.update(block)
            left -= len(block)
        told = stream.read(DIGEST_BYTES)
        whole.update(told)
    if left or told != data.digest():
        raise BadSnapshotError(
            f"{path}: the digest at its end is not that of its content", "It is damaged; take another copy."
        )
    return size, whole.hexdigest()


def _choose(view: EtcdView, besides: str) -> EtcdMember:
    able = [member for member in view.voters if member.healthy]
    if not able:
        raise EtcdError(
            "no voter of etcd is healthy, so none can be asked for its data",
            "More than half of the servers have to be up.",
        )
    # A follower has less to do than the leader; one that lags has less to tell.
    newest = max(member.raft_index for member in able)
    return max(
        able,
        key=lambda member: (
            member.node != besides,
            member.raft_index >= newest - 1000,
            member.id != view.leader_id,
            member.raft_index,
        ),
    )


async def _receive(
    client: EtcdClient,
    member: EtcdMember,
    stream: IO[bytes],
    directory: Path,
    tell: Callable[[int, int], None],
) -> None:
    """Write what comes."""
    done, waiting = 0, bytearray()
    async with client.connect_to(member) as connection:
        async for piece in connection.snapshot(SILENCE_S):
            total = done + len(piece.blob) + piece.remaining_bytes
            if not done:
                require_room(directory, total)
            done += len(piece.blob)
            waiting += piece.blob
            if done > MAX_BYTES:
                raise BadSnapshotError(f"etcd's data is larger than {MAX_BYTES >> 30} GiB")
            if len(waiting) >= _BATCH:
                await asyncio.to_thread(stream.write, bytes(waiting))
                waiting.clear()
                tell(done, total)
    await asyncio.to_thread(stream.write, bytes(waiting))


def require_room(directory: Path, size: int) -> None:
    """Let no snapshot be begun that the disk can not hold.

    Raises:
        EtcdError: It has not the room.
    """
    free = shutil.disk_usage(directory).free
    if free < size + SPARE_BYTES:
        raise EtcdError(
            f"{directory} has {free >> 20} MiB free, a snapshot of {size >> 20} MiB and {SPARE_BYTES >> 20} "
            "MiB of reserve are needed",
            "Make room there: 'bramble snapshot prune' deletes old ones.",
        )


def _flush(stream: IO[bytes]) -> None:
    stream.flush()
    os.fsync(stream.fileno())
