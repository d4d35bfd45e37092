"""Stock images into the store: find, download, verify, unpack, describe. The only module here that decides
what is trusted.

    proven by                      for
    a signed list of digests       catalogue images of a publisher that signs lists (Ubuntu)
    a signature of the file        catalogue images of a publisher that signs files (Raspberry Pi)
    a digest that the user gave    image.base: {url, sha256}, {path, sha256}
    being a file of the user's     image.base: {path}
    nothing                        refused, unless the user names the base as one to take unverified

A signature or digest that is there and wrong is refused whatever the user says.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from imagebuilder.bases.base import DISK_NAME, INFO_NAME, KIND, Base, load_base
from imagebuilder.bases.catalogue import StockImage
from imagebuilder.bases.containers import DamagedArchive
from imagebuilder.bases.describe import describe
from imagebuilder.bases.download import discard, download_known
from imagebuilder.bases.http import Http, check_url, redact
from imagebuilder.bases.keys import Keys, find_keys
from imagebuilder.bases.locate import DETACHED, Located, locate, missing_key
from imagebuilder.bases.meter import FetchProgress, Meter
from imagebuilder.bases.openpgp import BadSignature, check_signature
from imagebuilder.bases.origins import Origin, Proof, find_origin, write_origin
from imagebuilder.bases.unpack import TooLarge, unpack
from imagebuilder.digests import DigestCache
from imagebuilder.errors import ImageBuilderError
from imagebuilder.still import FileState
from imagebuilder.store import DOWNLOADS, Store

MAX_DOWNLOAD_BYTES: Final = 16 << 30
MAX_DISK_BYTES: Final = 64 << 30
"""Limits of images that are not in the catalogue: more than any card that a cluster node has for its
system."""

OnProgress = Callable[[FetchProgress], None]


class UnverifiedBase(ImageBuilderError):
    """Nothing proves that an image is what it is taken for."""


class WrongDigest(ImageBuilderError):
    """A file is not the one whose digest was given."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A base that is in the store now. ``downloaded``: it was not before, or not the newest release."""

    base: Base
    origin: Origin
    downloaded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A file to get, and what will prove it. ``source`` is a URL, or a path with ``local``."""

    name: str
    release: str
    source: str
    file_name: str
    sha256: str | None
    proof: Proof
    evidence: str
    signature: bytes | None = None
    keys: Keys | None = None
    pinned: tuple[str, ...] = ()
    max_download_bytes: int = MAX_DOWNLOAD_BYTES
    max_disk_bytes: int = MAX_DISK_BYTES


def fetch_image(
    image: StockImage,
    *,
    store: Store,
    mirror: str | None = None,
    key_files: Sequence[Path] = (),
    unverified: bool = False,
    on_progress: OnProgress = lambda progress: None,
    http: Http | None = None,
) -> Fetched:
    """The newest release of a stock image, downloaded where the store lacks it.

    Args:
        image: of the catalogue, or like one of it.
        store: where it is kept.
        mirror: URL that stands in for the publisher's.
        key_files: the publisher's key, where the user has it as a file.
        unverified: the user named this base as one to take although nothing proves it.
        on_progress: called from this thread.
        http: the client; None: a new one.

    Raises:
        UnverifiedBase: nothing proves it.
        BadSignature, WrongDigest: it is another file than the one that was signed or listed.
        ImageBuilderError: any other reason; the store is as it was.
    """
    with http or Http() as client:
        site = check_url(mirror or image.publisher.url)
        site = site if site.endswith("/") else f"{site}/"
        keys = _KeyFinder(image, client, key_files)
        located = locate(image, client, site, keys)
        wanted = _judge(image, located, keys, unverified=unverified)
        return _fetch(wanted, store, client, on_progress)


def fetch_url(
    url: str,
    sha256: str,
    *,
    store: Store,
    on_progress: OnProgress = lambda progress: None,
    http: Http | None = None,
) -> Fetched:
    """An image by its URL and the SHA-256 of the file there; without the network where the store has it.

    Raises:
        FetchError, WrongDigest, ImageBuilderError: the store is as it was.
    """
    check_url(url)
    wanted = _Wanted(
        name=redact(url),
        release="",
        source=url,
        file_name=unquote(urlsplit(url).path.rpartition("/")[2]) or "image",
        sha256=sha256,
        proof=Proof.DIGEST,
        evidence="its sha256 was given",
    )
    with http or Http() as client:
        return _fetch(wanted, store, client, on_progress)


def import_file(
    path: Path, sha256: str | None, *, store: Store, on_progress: OnProgress = lambda progress: None
) -> Fetched:
    """An image of this machine, plain or packed.

    Args:
        path: a regular file.
        sha256: of that file; None: whatever it holds, as the user named it.

    Raises:
        ChangedMeanwhile: the file was written to while it was read.
        WrongDigest, ImageBuilderError: the store is as it was.
    """
    state = FileState.of(path) if path.is_file() else None
    found = file_digest(path, store, sha256)
    wanted = _Wanted(
        name=os.fspath(path),
        release="",
        source=os.fspath(path),
        file_name=path.name,
        sha256=found,
        proof=Proof.DIGEST if sha256 else Proof.LOCAL,
        evidence="its sha256 was given" if sha256 else "a file that you named",
    )
    if known := _reuse(wanted, store):
        return known
    with store.locked(DOWNLOADS, _download_id(wanted)):
        if known := _reuse(wanted, store):
            return known
        return _keep(wanted, path, found, store, on_progress, state)


def file_digest(path: Path, store: Store, expected: str | None) -> str:
    """SHA-256 of the image file at ``path``; remembered while the file does not change.

    Raises:
        ImageBuilderError: no such file, or one that is not regular.
        WrongDigest: it is not ``expected``.
    """
    try:
        mode = path.stat().st_mode
    except OSError as exc:
        raise ImageBuilderError(
            f"{path} cannot be read: {exc.strerror}", "Name an image file of this machine."
        ) from exc
    if not stat.S_ISREG(mode):
        kind = {stat.S_IFDIR: "a directory", stat.S_IFBLK: "a disk", stat.S_IFIFO: "a pipe"}
        raise ImageBuilderError(
            f"{path} is {kind.get(stat.S_IFMT(mode), 'a device or socket')}, not an image file",
            "Name an image file: .img, or .img.xz, .zst, .gz, .zip.",
        )
    found = DigestCache(store.root / "digests").sha256(path)
    if expected is not None and found != expected:
        raise _wrong_digest(path, path.name, expected, found, MAX_DISK_BYTES)
    return found


class _KeyFinder:
    """Looks for a publisher's keys when they are first needed, once."""

    def __init__(self, image: StockImage, http: Http, given: Sequence[Path]) -> None:
        self._image = image
        self._http = http
        self._given = given
        self._found: Keys | None = None

    def __call__(self) -> Keys:
        if self._found is None:
            self._found = find_keys(self._image.publisher, self._http, given=self._given)
        return self._found


def _judge(image: StockImage, located: Located, keys: _KeyFinder, *, unverified: bool) -> _Wanted:
    """What will prove the file, known before it is downloaded.

    Raises:
        UnverifiedBase: nothing, and the user did not name this base.
    """
    wanted = _Wanted(
        name=image.name,
        release=located.release,
        source=located.url,
        file_name=located.file_name,
        sha256=located.sha256,
        proof=Proof.NONE,
        evidence="nothing",
        max_download_bytes=image.max_download_mib << 20,
        max_disk_bytes=image.max_disk_mib << 20,
    )
    if located.signer is not None:
        evidence = f"{image.publisher.title}'s list of digests, signed by {located.signer}"
        return replace(wanted, proof=Proof.SIGNATURE, evidence=evidence)
    doubts = list(located.doubts)
    if located.signature is not None:
        found = keys()
        if found.material:
            return replace(
                wanted,
                proof=Proof.SIGNATURE,
                evidence=f"{located.file_name}{DETACHED}",
                signature=located.signature,
                keys=found,
                pinned=image.publisher.keys,
            )
        doubts.append(missing_key(image, found))
    if not unverified:
        raise UnverifiedBase(
            f"{image.name}: nothing proves that {located.file_name} is what {image.publisher.title} "
            f"published: {'; '.join(doubts)}",
            f"Give the publisher's key with --key FILE (fingerprint {' or '.join(image.publisher.keys)}).\n"
            f"To take it all the same: --unverified {image.name}",
        )
    return replace(wanted, evidence="; ".join(doubts))


def _fetch(wanted: _Wanted, store: Store, http: Http, on_progress: OnProgress) -> Fetched:
    """Out of the store or from the network; of several processes at once one downloads."""
    if known := _reuse(wanted, store):
        return known
    entry = _download_id(wanted)
    with store.locked(DOWNLOADS, entry):
        if known := _reuse(wanted, store):
            return known
        directory = store.path(DOWNLOADS, entry)
        file, sha256 = _download(wanted, directory, http, on_progress)
        wanted = _prove(wanted, file, directory)
        fetched = _keep(wanted, file, sha256, store, on_progress)
        shutil.rmtree(directory)
    return fetched


def _download_id(wanted: _Wanted) -> str:
    return wanted.sha256 or f"url-{hashlib.sha256(wanted.source.encode()).hexdigest()[:32]}"


def _reuse(wanted: _Wanted, store: Store) -> Fetched | None:
    """The base that is in the store already, if what proves this file holds for it as well."""
    if wanted.sha256 is None:
        return None
    # A digest that is only claimed by an unsigned sidecar proves nothing of an image that came in otherwise.
    proven = wanted.proof is not Proof.SIGNATURE or wanted.signature is None
    found = find_origin(
        store,
        lambda origin: (
            origin.file_sha256 == wanted.sha256
            and (proven or (origin.proof is Proof.SIGNATURE and origin.name == wanted.name))
        ),
    )
    if found is None:
        return None
    known, base = found
    if known.name != wanted.name or (known.proof is not wanted.proof and known.proof is Proof.NONE):
        known = replace(
            _origin(wanted, known.file_sha256, known.file_bytes, base.id), fetched_at=known.fetched_at
        )
        write_origin(known, store)
        base = replace(base, name=wanted.name, info=replace(base.info, name=wanted.name))
    return Fetched(base, known, downloaded=False)


def _download(wanted: _Wanted, directory: Path, http: Http, on_progress: OnProgress) -> tuple[Path, str]:
    """The complete file and its digest, which is the wanted one where one is known."""
    file, found = download_known(
        http,
        wanted.source,
        directory,
        wanted.sha256,
        name=wanted.file_name,
        limit_bytes=wanted.max_download_bytes,
        on_progress=on_progress,
    )
    if wanted.sha256 in (None, found):
        return file, found
    error = _wrong_digest(file, wanted.file_name, str(wanted.sha256), found, wanted.max_disk_bytes)
    discard(directory)
    raise error


def _prove(wanted: _Wanted, file: Path, directory: Path) -> _Wanted:
    """Check the signature of the file itself, where it is what proves it."""
    if wanted.signature is None or wanted.keys is None:
        return wanted
    try:
        signer = check_signature(
            file, wanted.signature, wanted.keys.material, wanted.pinned, name=wanted.file_name
        )
    except BadSignature:
        discard(directory)
        raise
    return replace(wanted, evidence=f"{wanted.file_name}{DETACHED} by {signer.fingerprint}")


def _keep(
    wanted: _Wanted,
    file: Path,
    sha256: str,
    store: Store,
    on_progress: OnProgress,
    state: FileState | None = None,
) -> Fetched:
    """Unpack a proven file into an entry that is named after the raw disk's digest.

    ``state`` is that of the file before its digest was known, where it is not ours.
    """
    meter = Meter(f"unpacking {wanted.file_name}", time.monotonic())

    def build(work: Path) -> str:
        unpacked = unpack(
            file,
            work / DISK_NAME,
            limit_bytes=wanted.max_disk_bytes,
            name=wanted.file_name,
            on_progress=lambda done, total: on_progress(meter.at(done, total, time.monotonic())),
        )
        if state is not None:
            state.require(file)
        base_id = f"sha256-{unpacked.sha256}"
        info = describe(work / DISK_NAME, base_id, wanted.name, unpacked.sha256)
        (work / INFO_NAME).write_text(info.render(), encoding="utf-8")
        return base_id

    entry = store.adopt(KIND, f"new-{sha256}", build)
    base = load_base(entry, wanted.name)
    origin = _origin(wanted, sha256, file.stat().st_size, base.id)
    write_origin(origin, store)
    return Fetched(base, origin, downloaded=True)


def _origin(wanted: _Wanted, sha256: str, size: int, base_id: str) -> Origin:
    return Origin(
        name=wanted.name,
        release=wanted.release,
        source=redact(wanted.source) if "://" in wanted.source else wanted.source,
        file_sha256=sha256,
        file_bytes=size,
        base_id=base_id,
        proof=wanted.proof,
        evidence=wanted.evidence,
        fetched_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _wrong_digest(file: Path, name: str, expected: str, found: str, limit_bytes: int) -> WrongDigest:
    """The error, which says so when the digest is that of the unpacked image: a frequent mix-up."""
    hint = "The download is damaged, the file was replaced, or the digest is that of another file."
    try:
        if unpack(file, None, limit_bytes=limit_bytes, name=name).sha256 == expected:
            hint = f"That is the digest of the unpacked image. The one of the file is: sha256: {found}"
    except (DamagedArchive, TooLarge):
        pass  # then it is certainly not that
    return WrongDigest(f"{name}: sha256 is {found}, expected {expected}", hint)
