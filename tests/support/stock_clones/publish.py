"""A clone as a download site has it: compressed, with its sums next to it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from imagebuilder.runner import run
from stock_clones.make import Clone

_COMMANDS = {
    # -0: the test's time matters more than its bytes. One block, as "xz" without -T makes it.
    "xz": ("xz", "-0", "--keep", "--stdout"),
    "zst": ("zstd", "-q", "-1", "--stdout"),
    "gz": ("gzip", "-1", "--keep", "--stdout"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Files in one directory, ready to be served.

    Attributes:
        archive: ``NAME.img.xz`` (or .zst, .gz).
        sums: ``SHA256SUMS`` as Ubuntu writes it (``HASH *NAME``), of the archive.
        sidecar: ``NAME.img.xz.sha256`` as Raspberry Pi OS has it (``HASH  NAME``).
        raw_sha256, raw_bytes: of the image inside.
    """

    archive: Path
    sums: Path
    sidecar: Path
    archive_sha256: str
    raw_sha256: str
    raw_bytes: int


def publish(clone: Clone, directory: Path, kind: str = "zst") -> Published:
    """Compress a clone into ``directory``; ``kind`` is xz (20 s and more), zst or gz (seconds)."""
    directory.mkdir(parents=True, exist_ok=True)
    archive = directory / f"{clone.file_name}.{kind}"
    with archive.open("wb") as file:
        # The runner would hold the archive in memory: a hundred megabytes and more.
        file.write(run([*_COMMANDS[kind], clone.disk], timeout_s=900).stdout)
    digest = _sha256(archive)
    sums, sidecar = directory / "SHA256SUMS", directory / f"{archive.name}.sha256"
    sums.write_text(f"{digest} *{archive.name}\n")
    sidecar.write_text(f"{digest}  {archive.name}\n")
    return Published(
        archive=archive,
        sums=sums,
        sidecar=sidecar,
        archive_sha256=digest,
        raw_sha256=_sha256(clone.disk),
        raw_bytes=clone.disk.stat().st_size,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
