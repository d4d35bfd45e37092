"""Files that must never be half written or readable by others."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from fleet.errors import FleetError


class PrivateFileError(FleetError):
    """A file of the state directory cannot be written."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"{path} cannot be written: {error.strerror or error}",
            "Is the state directory yours, and is there room on its disk?",
        )
        self.path = path


def write_private(path: Path, data: bytes) -> None:
    """Put `data` at `path`, mode 0600: the old content or the new one is there, also after a power cut.

    Raises:
        PrivateFileError: The disk refuses; the old content is untouched.
    """
    try:
        _write(path, data)
    except OSError as error:
        raise PrivateFileError(path, error) from error


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            _give_to_owner_of(path.parent, stream.fileno())
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def _give_to_owner_of(directory: Path, descriptor: int) -> None:
    """What root writes into the state directory of a service is that service's: it has to read it."""
    owner = directory.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def give_to_owner_of(directory: Path, path: Path) -> None:
    """The same for a whole tree, `path`, that root made."""
    owner = directory.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        for each in (path, *path.rglob("*")):
            os.chown(each, owner.st_uid, owner.st_gid, follow_symlinks=False)


def sync_directory(path: Path) -> None:
    """Make renames in `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
