"""Files that are either old or new, never half: temporary name, fsync, rename, fsync of the directory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from agent.errors import AgentError

TEMPORARY_SUFFIX = ".bramble-new"


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` by `data`; its directory must exist. After a power cut the old or the new content is
    there.

    Raises:
        AgentError: no space, read-only filesystem, or no permission; the old content is untouched.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_directory(path.parent)
    except OSError as exc:
        raise AgentError(
            f"{path} can not be written: {exc.strerror}",
            "Is the disk full ('df -h'), or did the kernel remount it read-only ('dmesg')?",
        ) from exc


def sync_directory(directory: Path) -> None:
    """Make renames and removals in `directory` durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """A disk that fails in the middle of an action is a problem to report, not the end of the service."""
    try:
        yield
    except OSError as exc:
        raise AgentError(
            f"the node's disk refuses: {exc}", "Is it full, read-only or failing (dmesg)?"
        ) from exc
