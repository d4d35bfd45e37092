"""SHA-256 of large files, remembered by path, size and time of change: an unchanged file is read once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


class DigestCache:
    """Digests in small files below ``directory``. A lost or torn entry only costs time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def sha256(self, path: Path) -> str:
        """The file's digest, 64 hex digits."""
        path = path.resolve()
        key = _key(path)
        if (known := self._known(path)) is not None and known["key"] == key:
            return str(known["sha256"])
        digest = hash_file(path)
        self._remember(path, {"key": key, "sha256": digest})
        return digest

    def expect(self, path: Path, sha256: str) -> None:
        """Take the digest of a file of which nothing is known for granted, as it is now."""
        path = path.resolve()
        if self._known(path) is None:
            self._remember(path, {"key": _key(path), "sha256": sha256})

    def _known(self, path: Path) -> dict[str, Any] | None:
        try:
            known = json.loads(self._entry(path).read_text())
            return known if {"key", "sha256"} <= known.keys() else None
        except (OSError, ValueError, AttributeError):
            return None  # not known, or not readable

    def _entry(self, path: Path) -> Path:
        return self._directory / hashlib.sha256(os.fspath(path).encode()).hexdigest()[:32]

    def _remember(self, path: Path, content: object) -> None:
        """Write it down, unless the disk is full, failing or only to be read: then it is not remembered."""
        entry = self._entry(path)
        with contextlib.suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._directory) as work:
                part = Path(work) / entry.name
                part.write_text(json.dumps(content), encoding="utf-8")
                part.replace(entry)


def _key(path: Path) -> list[str | int]:
    state = path.stat()
    return [os.fspath(path), state.st_size, state.st_mtime_ns, state.st_ino]


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
