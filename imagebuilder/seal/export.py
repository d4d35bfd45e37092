"""A finished image as files for people and other tools.

    NAME.img  NAME.img.zst  NAME.img.xz     the raw image (sparse), and compressed
    NAME.bmap                               block map, found by bmaptool beside each of the three
    manifest.json  index.json  sbom.spdx.json  provenance.json  os_list.json
    boot/  installer/initramfs              the files of the network boot
    SHA256SUMS                              digests of all of them

Everything is made and read back under temporary names in the directory; SHA256SUMS goes away first and comes
back last, so a directory that has it is complete.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import quote

from fleet.boards import BoardModel
from imagebuilder.build import Image
from imagebuilder.digests import hash_file
from imagebuilder.disk.sparse import copy_sparse
from imagebuilder.errors import ImageBuilderError, StoreError
from imagebuilder.manifest import FILE_NAME as MANIFEST
from imagebuilder.runner import feed, require_tools
from imagebuilder.seal import os_list, provenance, sbom
from imagebuilder.store import flush_tree, remove_tree, require_room

SUMS: Final = "SHA256SUMS"
INDEX: Final = "index.json"
PIECE_BYTES: Final = 4 * 2**20
XZ: Final = ("xz", "--format=xz", "--check=sha256", "-6", "--threads=0", "--block-size=24MiB", "--stdout")
"""Blocks of fixed size, so that the same image gives the same bytes however many cores compress it, and
readers can use several too."""

Progress = Callable[[str, float], None]


class Format(StrEnum):
    """What can be written."""

    IMG = "img"
    ZST = "zst"
    XZ = "xz"
    BOOT = "boot"


class ExportError(ImageBuilderError):
    """The files cannot be written, or do not read back as what was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What to write.

    Attributes:
        name: how the image files are called, without extension.
        formats: at least one.
        url: where the files will be, for the OS list; None: this directory.
        boards: which boards the OS list offers the image for.
        key: signs the provenance.
    """

    name: str
    formats: tuple[Format, ...]
    url: str | None = None
    boards: tuple[BoardModel, ...] = ()
    key: provenance.PrivateKey | None = None


def export_image(
    image: Image, directory: Path, export: Export, progress: Progress = lambda text, share: None
) -> tuple[Path, ...]:
    """Write the files, and return their paths.

    Args:
        image: from the store, which is not changed.
        directory: made if it is not there; other files in it are left alone.
        progress: called from this thread with what is being done and the share that is done.

    Raises:
        NoSpace: the directory's filesystem is too full.
        StoreError: the image in the store is damaged.
        ExportError, CommandFailed, MissingTool; nothing new has its final name then.
    """
    if Format.XZ in export.formats:
        require_tools(XZ[0])
    require_room(directory, _room(image, export.formats))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=directory, prefix=".bramble-export-"))
    except OSError as exc:
        raise ExportError(
            f"{directory} cannot be written: {exc.strerror}", "Name a directory that is yours."
        ) from exc
    try:
        work.chmod(0o755)
        _write(image, work, export, directory, progress)
        flush_tree(work)
        return _publish(work, directory)
    except OSError as exc:
        raise ExportError(
            f"{directory}: the files cannot be written: {exc.strerror}",
            "Nothing was left behind. Look at the disk (space, quota, cables) and run the command again.",
        ) from exc
    finally:
        remove_tree(work)


def _room(image: Image, formats: Sequence[Format]) -> int:
    manifest = image.manifest
    sizes = {
        Format.IMG: manifest.mapped_bytes,
        Format.ZST: manifest.compressed_bytes,
        Format.XZ: manifest.compressed_bytes,
        Format.BOOT: sum(output.size_bytes for output in manifest.outputs if "/" in output.path),
    }
    return sum(sizes[one] for one in set(formats)) + 2**20


def _write(image: Image, work: Path, export: Export, directory: Path, progress: Progress) -> None:
    manifest = image.manifest
    base = f"{export.name}.img"
    steps = _Steps(progress, 1 + len(export.formats))
    compressed: dict[Format, Path] = {}
    if Format.XZ in export.formats:
        target = work / f"{base}.xz"
        raw_sha256 = _compress_xz(image, target, steps)
        compressed[Format.XZ] = target
    else:
        raw_sha256 = _hash_raw(image.disk, steps.next("reading the image"))
    if Format.IMG in export.formats:
        show = steps.next("copying the image")
        copy_sparse(image.disk, work / base)
        if _hash_raw(work / base, show) != raw_sha256:
            raise ExportError(
                f"{work / base} does not read back as the image", "The disk there may be failing."
            )
        compressed.setdefault(Format.IMG, work / base)
    if Format.ZST in export.formats:
        steps.next("copying the compressed image")(0.0)
        _copy(image, "disk.img.zst", work / f"{base}.zst")
        compressed[Format.ZST] = work / f"{base}.zst"
    if Format.BOOT in export.formats:
        steps.next("copying the boot files")(0.0)
        for output in manifest.outputs:
            if output.path.startswith(("boot/", "installer/")):
                _copy(image, output.path, work / output.path)
    for source, name in (
        ("disk.bmap", f"{export.name}.bmap"),
        (INDEX, INDEX),
        (sbom.FILE_NAME, sbom.FILE_NAME),
    ):
        _copy(image, source, work / name)
    shutil.copyfile(image.root / MANIFEST, work / MANIFEST)
    offered = next(
        (compressed[one] for one in (Format.XZ, Format.ZST, Format.IMG) if one in compressed), None
    )
    if offered is not None:
        entry = _os_entry(image, export, offered, raw_sha256, directory)
        (work / os_list.FILE_NAME).write_text(os_list.render_os_list([entry]), encoding="utf-8")
    subjects = _digests(work)
    statement = provenance.make_statement(manifest, subjects)
    (work / provenance.FILE_NAME).write_text(provenance.render_provenance(statement, export.key))
    sums = _digests(work)
    (work / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums), encoding="utf-8")
    progress("done", 1.0)


def _copy(image: Image, source: str, target: Path) -> None:
    """Copy a file of the image and compare what arrives with the manifest's digest."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(image.root / source, target)
    expected, found = image.manifest.output(source).sha256, hash_file(target)
    if found != expected:
        raise StoreError(
            f"{image.root / source}: its sha256 is {found}, the manifest says {expected}",
            f"The store is damaged. Remove {image.root} and build again.",
        )


def _compress_xz(image: Image, target: Path, steps: _Steps) -> str:
    """Compress the raw image, unpack it again, and return the raw image's digest."""
    raw = hashlib.sha256()
    show = steps.next("compressing with xz")
    feed(XZ, pieces=_hashed(image.disk, raw, lambda share: show(share * 0.9)), stdout=target)
    again = hashlib.sha256()
    with lzma.open(target) as file:
        while piece := file.read(PIECE_BYTES):
            again.update(piece)
    if again.hexdigest() != raw.hexdigest():
        raise ExportError(f"{target} does not unpack to the image", "The disk there may be failing.")
    return raw.hexdigest()


def _hash_raw(path: Path, show: Callable[[float], None]) -> str:
    digest = hashlib.sha256()
    for _ in _hashed(path, digest, show):
        pass
    return digest.hexdigest()


def _hashed(path: Path, digest: hashlib._Hash, show: Callable[[float], None]) -> Iterator[bytes]:
    """The file's content in pieces, each of which went into the digest."""
    size, done = path.stat().st_size, 0
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
            yield piece
            done += len(piece)
            show(done / size)


def _os_entry(
    image: Image, export: Export, offered: Path, raw_sha256: str, directory: Path
) -> os_list.OsEntry:
    manifest = image.manifest
    top = f"{export.url.rstrip('/')}/" if export.url else f"{directory.resolve().as_uri()}/"
    made = time.gmtime((image.root / MANIFEST).stat().st_mtime)
    return os_list.OsEntry(
        name=f"{export.name}: node of {manifest.cluster}",
        description=f"{manifest.base.name} with {manifest.k3s.title}, made by Bramble ({image.id[:12]})",
        url=top + quote(offered.name),
        bmap_url=top + quote(f"{export.name}.bmap"),
        extract_size=manifest.size_bytes,
        extract_sha256=raw_sha256,
        download_size=offered.stat().st_size,
        download_sha256=hash_file(offered),
        release_date=time.strftime("%Y-%m-%d", made),
        boards=export.boards,
    )


def _digests(work: Path) -> list[tuple[str, str]]:
    """(path, SHA-256) of every file, sorted."""
    files = sorted(path for path in work.rglob("*") if path.is_file())
    return [(path.relative_to(work).as_posix(), hash_file(path)) for path in files]


def _publish(work: Path, directory: Path) -> tuple[Path, ...]:
    """Give everything its final name, SHA256SUMS last."""
    (directory / SUMS).unlink(missing_ok=True)
    _flush(directory)
    published = []
    for path in sorted(work.iterdir(), key=lambda path: (path.name == SUMS, path.name)):
        target = directory / path.name
        if target.is_dir() and not target.is_symlink():
            remove_tree(target)
        path.rename(target)
        published.append(target)
    _flush(directory)
    return tuple(published)


def _flush(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Steps:
    """Shares of the whole for work that consists of steps of about the same length."""

    def __init__(self, progress: Progress, count: int) -> None:
        self._progress = progress
        self._count = count
        self._begun = -1

    def next(self, text: str) -> Callable[[float], None]:
        """Begin a step; the function takes the share of it that is done."""
        self._begun += 1
        before = self._begun

        def show(share: float) -> None:
            self._progress(text, min(0.99, (before + share) / self._count))

        return show
