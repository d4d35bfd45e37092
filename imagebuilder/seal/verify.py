"""Is an image what its manifest says? For entries of the store, and for directories that were exported."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

from imagebuilder.digests import hash_file
from imagebuilder.disk.source import open_source
from imagebuilder.errors import ImageBuilderError, NotUnderstood
from imagebuilder.manifest import FILE_NAME as MANIFEST
from imagebuilder.manifest import Manifest, load_manifest
from imagebuilder.seal import provenance
from imagebuilder.seal.chunks import load_chunks
from imagebuilder.seal.export import SUMS
from imagebuilder.seal.provenance import PublicKey

_PIECE_BYTES: Final = 4 * 2**20

Progress = Callable[[str, float], None]


class VerifyError(ImageBuilderError):
    """An image that is not what its manifest says; all differences at once."""

    def __init__(self, directory: Path, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(
            f"{directory} is not what it says it is:\n" + "\n".join(f"  {problem}" for problem in problems),
            "An exported directory: take it from its source again. In the store: remove it and build again.",
        )


def verify_stored(directory: Path, progress: Progress = lambda text, share: None) -> Manifest:
    """Compare an image of the store with its manifest: every output, every chunk of the raw disk, and zeros
    where nothing is mapped.

    Raises:
        VerifyError: with everything that differs.
        NotUnderstood: there is no image in the directory.
    """
    manifest = _manifest(directory)
    problems: list[str] = []
    for number, output in enumerate(manifest.outputs):
        progress("reading the files", 0.4 * number / len(manifest.outputs))
        problems.extend(_compare(directory, output.path, output.sha256))
    if not problems:  # the index proves the disk only if it is itself as the manifest says
        problems.extend(_damaged_chunks(directory, manifest, progress))
    if problems:
        raise VerifyError(directory, problems)
    return manifest


def verify_exported(
    directory: Path, key: PublicKey | None = None, progress: Progress = lambda text, share: None
) -> Manifest:
    """Compare an exported directory with its SHA256SUMS and its provenance.

    Args:
        key: who must have signed the provenance; None: nobody.

    Raises:
        VerifyError: with everything that differs.
        SignatureError: the provenance is not signed by ``key``.
        NotUnderstood: no image was exported here, or not completely.
    """
    sums = directory / SUMS
    if not sums.is_file():
        raise NotUnderstood(
            f"{directory} has no {SUMS}: no image was written there, or not completely",
            "Write it with: bramble build CLUSTER.yaml --output DIR",
        )
    manifest = _manifest(directory)
    lines = [line for line in sums.read_text(encoding="utf-8").splitlines() if line]
    listed: dict[str, str] = {}
    problems = []
    for line in lines:
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name or name.startswith("/") or ".." in name.split("/"):
            problems.append(f"{SUMS}: {line[:100]!r} is not a digest and a name in this directory")
        else:
            listed[name] = digest
    for number, (name, digest) in enumerate(sorted(listed.items())):
        progress("reading the files", number / len(listed))
        problems.extend(_compare(directory, name, digest))
    problems.extend(_unproven(directory, listed, manifest, key))
    if problems:
        raise VerifyError(directory, problems)
    return manifest


def _unproven(
    directory: Path, listed: dict[str, str], manifest: Manifest, key: PublicKey | None
) -> Iterator[str]:
    """What the provenance says otherwise: SHA256SUMS alone could be rewritten by whoever changed a file."""
    path = directory / provenance.FILE_NAME
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    statement = provenance.parse_provenance(text, key)
    try:
        proven = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
        invocation = statement["predicate"]["runDetails"]["metadata"]["invocationId"]
    except (KeyError, TypeError) as exc:
        raise NotUnderstood(
            f"{path}: it lacks {exc}", "Take the whole directory from its source again."
        ) from exc
    if invocation != manifest.image_id:
        yield f"{path.name} is of image {invocation}, {MANIFEST} of {manifest.image_id}"
    for name, digest in sorted(listed.items()):
        if name != path.name and proven.get(name) != digest:
            yield f"{name}: {path.name} says {proven.get(name, 'nothing')}, {SUMS} says {digest}"


def _compare(directory: Path, name: str, expected: str) -> Iterator[str]:
    path = directory / name
    if not path.is_file():
        yield f"{name} is not there"
    elif (found := hash_file(path)) != expected:
        yield f"{name}: its sha256 is {found}, expected {expected}"


def _damaged_chunks(directory: Path, manifest: Manifest, progress: Progress) -> Iterator[str]:
    disk = directory / "disk.img"
    if not disk.is_file() or disk.stat().st_size != manifest.size_bytes:
        yield f"disk.img is not there, or has not {manifest.size_bytes} bytes"
        return
    chunks = load_chunks(directory / "index.json")
    with open_source(disk) as source:
        for chunk in chunks:
            progress("reading the disk image", 0.4 + 0.6 * chunk.offset / manifest.size_bytes)
            if hashlib.sha256(source.read_at(chunk.offset, chunk.length)).hexdigest() != chunk.sha256:
                last = chunk.offset + chunk.length - 1
                yield f"disk.img: bytes {chunk.offset}–{last} are not those of the index"
        edges = [
            (0, 0),
            *((one.offset, one.offset + one.length) for one in chunks),
            (manifest.size_bytes,) * 2,
        ]
        for (_, start), (end, _) in pairwise(edges):
            for position in range(start, end, _PIECE_BYTES):
                piece = source.read_at(position, min(_PIECE_BYTES, end - position))
                if piece.count(0) != len(piece):
                    last = position + len(piece) - 1
                    yield f"disk.img: there is data in bytes {position}–{last}, which nothing uses"


def _manifest(directory: Path) -> Manifest:
    try:
        return load_manifest(directory)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as exc:
        raise NotUnderstood(
            f"{directory} holds no image: its {MANIFEST} cannot be read ({exc})",
            "Name a directory of the store ('bramble build' prints it), or one that was exported.",
        ) from exc
