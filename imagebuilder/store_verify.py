"""Read the store's entries again and hold them against the digests that were recorded when they were made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zstandard

from imagebuilder import k3s_release
from imagebuilder.bases.base import DISK_NAME, INFO_NAME, parse_info
from imagebuilder.bases.origins import RECORD_NAME, parse_origin
from imagebuilder.bases.sums import parse_sums
from imagebuilder.digests import hash_file
from imagebuilder.disk.source import open_source
from imagebuilder.errors import ImageBuilderError
from imagebuilder.installer import RUNTIME_FILE
from imagebuilder.manifest import load_manifest
from imagebuilder.packages.layer import CONTENTS, Layer
from imagebuilder.packages.layer import FILE_NAME as LAYER_NAME
from imagebuilder.seal.chunks import load_chunks
from imagebuilder.store import Store


class NotRecorded(Exception):
    """Nothing was recorded that the entry could be held against."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One entry. ``problems`` is empty for a sound one; ``unchecked`` says why nothing could be compared."""

    kind: str
    id: str
    path: Path
    problems: tuple[str, ...]
    unchecked: str = ""


def verify_store(
    store: Store, on_progress: Callable[[str, float], None] = lambda text, share: None
) -> list[Finding]:
    """Check every entry.

    Args:
        store: the store; its entries are in use while they are read.
        on_progress: called with the entry that is read, and the share of all entries that is done.
    """
    entries = [(kind, path) for kind in store.kinds() for path in store.entries(kind)]
    findings = []
    for number, (kind, path) in enumerate(entries):
        on_progress(f"reading {kind}/{path.name}", number / len(entries))
        if store.find(kind, path.name) is None:
            continue  # somebody removed it meanwhile
        problems: tuple[str, ...] = ()
        unchecked = ""
        try:
            problems = tuple(_VERIFIERS.get(kind, _unknown)(path))
        except NotRecorded as exc:
            unchecked = str(exc)
        except (ImageBuilderError, OSError, ValueError, KeyError, TypeError) as exc:
            text = exc.message if isinstance(exc, ImageBuilderError) else f"{type(exc).__name__}: {exc}"
            problems = (text,)
        findings.append(Finding(kind=kind, id=path.name, path=path, problems=problems, unchecked=unchecked))
    return findings


def _unknown(entry: Path) -> Iterator[str]:
    raise NotRecorded("entries of this kind carry no digests")


def _base(entry: Path) -> Iterator[str]:
    info = parse_info((entry / INFO_NAME).read_text(encoding="utf-8"))
    size = (entry / DISK_NAME).stat().st_size
    if size != info.size_bytes:
        yield f"{DISK_NAME} has {size} bytes, {INFO_NAME} says {info.size_bytes}"
    elif not info.disk_sha256:
        raise NotRecorded("made by a Bramble that did not record the digest of the disk")
    else:
        yield from _compare(entry / DISK_NAME, info.disk_sha256)


def _origin(entry: Path) -> Iterator[str]:
    parse_origin((entry / RECORD_NAME).read_text(encoding="utf-8"))
    return iter(())


def _image(entry: Path) -> Iterator[str]:
    manifest = load_manifest(entry)
    for output in manifest.outputs:
        yield from _compare(entry / output.path, output.sha256)
    disk = entry / "disk.img"
    size = disk.stat().st_size
    if size != manifest.size_bytes:
        yield f"disk.img has {size} bytes, the manifest says {manifest.size_bytes}"
        return
    with open_source(disk) as source:
        for chunk in load_chunks(entry / "index.json"):
            found = hashlib.sha256(source.read_at(chunk.offset, chunk.length)).hexdigest()
            if found != chunk.sha256:
                yield f"disk.img: bytes {chunk.offset}–{chunk.offset + chunk.length - 1} were changed"


def _release(entry: Path) -> Iterator[str]:
    sums = parse_sums((entry / k3s_release.SUMS).read_bytes(), k3s_release.SUMS)
    for path in sorted(entry.iterdir()):
        if path.name != k3s_release.SUMS and path.name in sums.by_name:
            yield from _compare(path, sums.by_name[path.name])
    if not (entry / k3s_release.BINARY).is_file():
        yield f"{k3s_release.BINARY} is missing"


def _runtime(entry: Path) -> Iterator[str]:
    try:
        with (
            (entry / RUNTIME_FILE).open("rb") as file,
            zstandard.ZstdDecompressor().stream_reader(file) as plain,
        ):
            while plain.read(1 << 20):
                pass
    except zstandard.ZstdError as exc:
        yield f"{RUNTIME_FILE} does not unpack: {exc}"


def _layer(entry: Path) -> Iterator[str]:
    layer = Layer.parse((entry / LAYER_NAME).read_text(encoding="utf-8"))
    for digest in sorted({item.sha256 for item in layer.entries if item.sha256}):
        yield from _compare(entry / CONTENTS / digest, digest)


def _compare(path: Path, expected: str) -> Iterator[str]:
    if not path.is_file():
        yield f"{path.name} is missing"
    elif (found := hash_file(path)) != expected:
        yield f"{path.name}: sha256 is {found}, recorded was {expected}"


_VERIFIERS: Final[Mapping[str, Callable[[Path], Iterator[str]]]] = {
    "bases": _base,
    "base-origins": _origin,
    "images": _image,
    "k3s": _release,
    "installer-runtimes": _runtime,
    "layers": _layer,
}
"""Kind of entry → its check. Who adds a kind adds its check here; without one it is reported as unchecked."""
