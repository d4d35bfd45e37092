"""The media that a user names: each is looked at before any is touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.flash.devices import Disk, Inventory, refusals
from imagebuilder.flash.errors import TargetRefused


@dataclass(frozen=True, slots=True)
class Medium:
    """A target as the user named it; ``disk`` is None for a plain file."""

    path: Path
    disk: Disk | None
    size_bytes: int

    @property
    def title(self) -> str:
        return self.disk.title if self.disk else f"file of {self.size_bytes / 1e9:.1f} GB, {self.path}"


def require_media(
    paths: Sequence[Path], inventory: Inventory, *, needed_bytes: int, allow_fixed: bool
) -> list[Medium]:
    """Look at every target before any is touched.

    Raises:
        TargetRefused: at least one must not be written; all reasons at once.
    """
    media: list[Medium] = []
    problems: list[str] = []
    seen: dict[Path, Path] = {}
    for path in paths:
        real = path.resolve()
        if (twin := seen.setdefault(real, path)) is not path:
            problems.append(f"{path} is the same disk as {twin}. Each node needs its own.")
            continue
        disk = inventory.find(path)
        if disk is not None:
            found = refusals(disk, needed_bytes=needed_bytes, allow_fixed=allow_fixed)
            problems += [f"{disk.title}: {refusal.reason}. {refusal.mend}" for refusal in found]
            media.append(Medium(path, disk, disk.size_bytes))
        elif real.is_file():
            size = real.stat().st_size
            if size < needed_bytes:
                problems.append(f"{path} has {size} bytes, the image needs {needed_bytes}. Make it larger.")
            media.append(Medium(path, None, size))
        elif real.is_block_device():
            problems.append(f"{path} is a part of a disk. Name the whole disk.")
        else:
            problems.append(f"{path} is no disk. 'bramble flash --list' shows the candidates.")
    if problems:
        raise TargetRefused("nothing was written:\n" + "\n".join(f"  {line}" for line in problems), "")
    return media
