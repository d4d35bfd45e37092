"""SHA-256 of large files, remembered by path, size and time of change: an unchanged file is read once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path


class DigestCache:
    """Digests in small files below ``directory``. A lost or torn entry only costs time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def sha256(self, path: Path) -> str:
        """The file's digest, 64 hex digits."""
        path = path.resolve()
        state = path.stat()
        key = [os.fspath(path), state.st_size, state.st_mtime_ns, state.st_ino]
        entry = self._directory / hashlib.sha256(os.fspath(path).encode()).hexdigest()[:32]
        try:
            known = json.loads(entry.read_text())
            if known["key"] == key:
                return str(known["sha256"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass  # not known, or not readable: read the file
        digest = hash_file(path)
        with contextlib.suppress(OSError):  # full, failing or only to be read: then it is not remembered
            self._remember(entry, {"key": key, "sha256": digest})
        return digest

    def _remember(self, entry: Path, content: object) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._directory) as work:
            part = Path(work) / entry.name
            part.write_text(json.dumps(content), encoding="utf-8")
            part.replace(entry)


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
