"""What every case is handed."""

from __future__ import annotations

import contextlib
import hashlib
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.errors import BenchmarkError, NotPossible
from benchmarks.programs import Programs
from imagebuilder.store import Store
from lab.errors import LabError
from lab.network import enter_private_network, has_private_network

PIECE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One run.

    Attributes:
        store: where the base is; read only.
        work: an own directory.
        rounds: measured rounds.
        trial: small inputs, to see that it works.
    """

    store: Store
    work: Path
    programs: Programs
    rounds: int
    trial: bool

    def size(self, full_bytes: int) -> int:
        """The size of an input; a sixteenth of it in a trial run."""
        return full_bytes // 16 if self.trial else full_bytes

    @contextlib.contextmanager
    def directory(self, name: str) -> Iterator[Path]:
        """An empty directory that goes with the block."""
        path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.work))
        try:
            yield path
        finally:
            shutil.rmtree(path)


def require_private_network() -> None:
    """Be in a network of our own, where every port is free and nothing leaves the machine.

    Raises:
        NotPossible: the machine does not allow it.
    """
    if has_private_network():
        return
    try:
        enter_private_network()
    except LabError as exc:
        raise NotPossible(exc.message, exc.hint) from exc


def write_noise(path: Path, size_bytes: int) -> str:
    """A file that can not be compressed, the same in every run; its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = random.Random(size_bytes)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size_bytes, PIECE_BYTES):
            piece = source.randbytes(min(PIECE_BYTES, size_bytes - start))
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def require_same(path: Path, sha256: str, who: str) -> None:
    """Check that a subject made the right bytes.

    Raises:
        BenchmarkError: it did not.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise BenchmarkError(f"{who}: sha256 is {found[:16]}…, expected {sha256[:16]}…")
