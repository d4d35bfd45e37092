"""Whether a file is still the one that was looked at: for inputs that are read several times, and slowly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.errors import ImageBuilderError


class ChangedMeanwhile(ImageBuilderError):
    """A file was replaced or written to while something was made from it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"{path} was changed while it was read, so what was made of it would mix two versions",
            "Nothing was kept. Find out what writes there, let it finish, and try again.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """What tells that a file is another one, or has other bytes. Whoever forges the times is not noticed."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """The state of the file that the path leads to now."""
        state = path.stat()
        return cls(
            device=state.st_dev, inode=state.st_ino, size_bytes=state.st_size, mtime_ns=state.st_mtime_ns
        )

    def require(self, path: Path) -> None:
        """Raise ``ChangedMeanwhile`` where the path leads to another file or state by now."""
        try:
            same = FileState.of(path) == self
        except FileNotFoundError:
            same = False
        if not same:
            raise ChangedMeanwhile(path)

    @contextmanager
    def holding(self, path: Path) -> Iterator[None]:
        """What is made in the block is of this state of the file.

        Raises:
            ChangedMeanwhile: it is not; also instead of an error of the block, which then is a consequence.
        """
        try:
            yield
        except Exception as exc:
            try:
                self.require(path)
            except ChangedMeanwhile as changed:
                raise changed from exc
            raise
        self.require(path)
