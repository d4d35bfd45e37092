"""A k3s release on this machine: its files checked against the release's own list before any of them is used.

A release directory holds ``k3s-arm64``, ``sha256sum-arm64.txt`` and, for nodes without a registry, one
``k3s-airgap-images-arm64.tar[.zst|.gz]``, all as k3s publishes them. A file ``SIMULATOR`` in it declares that
the binary is not k3s but a program that stands in for it; it may then be of any kind, and everything made
from it says so.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import quote, urljoin

import zstandard

from imagebuilder.bases.download import discard, download_known
from imagebuilder.bases.http import FetchError, Http, redact
from imagebuilder.bases.meter import FetchProgress
from imagebuilder.digests import DigestCache
from imagebuilder.errors import ImageBuilderError
from imagebuilder.store import DOWNLOADS, Store

BINARY: Final = "k3s-arm64"
SUMS: Final = "sha256sum-arm64.txt"
SIMULATOR: Final = "SIMULATOR"
AIRGAP: Final = tuple(f"k3s-airgap-images-arm64.tar{suffix}" for suffix in (".zst", ".gz", ""))
"""The archive's names, the smallest download first."""

UPSTREAM: Final = "https://github.com/k3s-io/k3s/releases/download/"
MAX_SUMS_BYTES: Final = 64 << 10
MAX_FILE_BYTES: Final = 4 << 30
"""An airgap archive has some hundred megabytes."""

IMAGE_INDEXES: Final = ("manifest.json", "index.json")
"""One of them says which images an archive holds: docker-archive and OCI layout."""

ELF_AARCH64: Final = 183
SEARCH_BYTES: Final = 2**20
LONGEST_VERSION: Final = 64
_VERSION_TAG: Final = re.compile(rb"v1\.\d{1,2}\.\d{1,2}(?:-rc\d)?\+k3s\d")
_SUM_LINE: Final = re.compile(r"([0-9a-f]{64})\s+\*?(\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseFile:
    """One verified file. ``name`` is its published name."""

    name: str
    path: Path
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class K3sRelease:
    """A verified release. ``airgap`` is None when its images are not wanted."""

    version: str
    simulator: bool
    binary: ReleaseFile
    airgap: ReleaseFile | None


class K3sReleaseError(ImageBuilderError):
    """A release that cannot be used; the message lists everything that is wrong with it."""

    def __init__(self, place: Path | str, problems: Sequence[str], hint: str) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{place}: {problem}" for problem in problems), hint)


def open_release(directory: Path, version: str, *, airgap: bool, digests: DigestCache) -> K3sRelease:
    """Check a release directory and describe it.

    Args:
        directory: holds the published files.
        version: the tag that cluster.yaml names, e.g. ``v1.33.5+k3s1``.
        airgap: whether the airgap images are wanted.
        digests: remembers the digests of unchanged files.

    Raises:
        K3sReleaseError: with every missing, damaged or foreign file.
    """
    problems: list[str] = []
    sums = _read_sums(directory, problems)
    simulator = (directory / SIMULATOR).is_file()
    binary = _verified(directory, BINARY, sums, digests, problems)
    archive = None
    if airgap:
        names = [name for name in AIRGAP if (directory / name).is_file()]
        if names:
            archive = _verified(directory, names[0], sums, digests, problems)
        else:
            problems.append(
                f"no airgap images; looked for {', '.join(AIRGAP)} (or set k3s.airgap_images: false)"
            )
    if binary is not None and not simulator and (fault := _elf_fault(binary.path)):
        problems.append(f"{BINARY} {fault}")
    if problems or binary is None:
        raise K3sReleaseError(
            directory,
            problems,
            f"Take the files of release {version} again: {BINARY}, {AIRGAP[0]} and {SUMS}.",
        )
    return K3sRelease(version=version, simulator=simulator, binary=binary, airgap=archive)


def verify_payload(release: K3sRelease) -> None:
    """What only the files' content tells: the binary is of the release's version, the archive unpacks whole.

    Digests prove that the files are those of the release's list; a directory that was filled by hand, or a
    mirror, may hold the consistent files of another version.

    Raises:
        K3sReleaseError: another version, or an archive that is damaged or is none.
    """
    if not release.simulator:
        verify_version(release.binary, release.version)
    if release.airgap is not None:
        verify_archive(release.airgap)


def verify_version(binary: ReleaseFile, version: str) -> None:
    """Look for ``version`` in the binary, where the linker put it (Go's -X), without running it.

    A binary that names no k3s version at all is not judged: it may be a build of the user's own.

    Raises:
        K3sReleaseError: it names other versions only.
    """
    found: set[str] = set()
    with binary.path.open("rb") as file:
        tail = b""
        while piece := file.read(SEARCH_BYTES):  # not mapped: that would count as memory of the build
            data = tail + piece
            if version.encode() in data:
                return
            found.update(match.group().decode() for match in _VERSION_TAG.finditer(data))
            tail = data[-LONGEST_VERSION:]
    if found:
        raise K3sReleaseError(
            binary.path.parent,
            [f"{binary.name} is {' or '.join(sorted(found)[:3])}, cluster.yaml says {version}"],
            "Set cluster.k3s.version to the version of these files, or take the files of that version.",
        )


def verify_archive(archive: ReleaseFile) -> None:
    """Read an airgap archive to its end, so that a damaged one is found here and not on the node.

    k3s reports a truncated archive only in the node's journal, long after boot (k3s#13136).

    Raises:
        K3sReleaseError: it does not unpack, is not a tar, or holds no container images.
    """
    try:
        with (
            archive.path.open("rb") as file,
            tarfile.open(fileobj=_plain_reader(archive.name, file), mode="r|") as tar,
        ):
            names = {member.name.removeprefix("./") for member in tar}
    except (tarfile.TarError, zstandard.ZstdError, OSError, EOFError, zlib.error) as exc:
        raise K3sReleaseError(
            archive.path.parent,
            [f"{archive.name} does not unpack: {exc}"],
            "The archive is damaged although its digest is the listed one; take another release.",
        ) from exc
    if not names & set(IMAGE_INDEXES):
        shown = ", ".join(sorted(names)[:3]) or "nothing"
        raise K3sReleaseError(
            archive.path.parent,
            [f"{archive.name} holds no container images: neither {' nor '.join(IMAGE_INDEXES)} ({shown})"],
            "Take the release's files again.",
        )


def fetch_release(
    source: str,
    version: str,
    *,
    airgap: bool,
    store: Store,
    on_progress: Callable[[FetchProgress], None] = lambda step: None,
    http: Http | None = None,
) -> Path:
    """Download a release into the store, once, and return its directory. What came of a file before the
    connection or this program ended is gone on with.

    Args:
        source: ``upstream``, or the URL that the file names are appended to.
        version: the release's tag.
        airgap: whether the airgap images are wanted.
        store: where it is kept.
        on_progress: called as each file comes in.
        http: the client; None: a new one.

    Raises:
        K3sReleaseError: not reachable, or other bytes than the release's list says.
        NoSpace, StoreError
    """

    def build(work: Path) -> None:
        problems: list[str] = []
        with http or Http() as client:
            with _told(base + SUMS):
                (work / SUMS).write_bytes(client.read(base + SUMS, MAX_SUMS_BYTES))
            sums = _read_sums(work, problems)
            listed = next((name for name in AIRGAP if name in sums), None)
            for name in (BINARY, *([listed] if airgap and listed else [])):
                if name in sums:
                    _download(client, base, name, sums[name], work, store, on_progress, problems)
                else:
                    problems.append(_mismatch(name, None, ""))
        if problems:
            raise K3sReleaseError(
                redact(base),
                problems,
                "Try again; if it stays so, the release's files do not belong together.",
            )

    base = release_url(source, version)
    return store.get_or_create("k3s", release_key(source, version, airgap=airgap), build)


def find_fetched(source: str, version: str, *, airgap: bool, store: Store) -> Path | None:
    """The directory of a release that was downloaded before."""
    return store.find("k3s", release_key(source, version, airgap=airgap))


def release_url(source: str, version: str) -> str:
    """The URL that file names are appended to."""
    if source == "upstream":
        return urljoin(UPSTREAM, f"{quote(version, safe='')}/")
    return source if source.endswith("/") else f"{source}/"


def release_key(source: str, version: str, *, airgap: bool) -> str:
    """The store's id of a downloaded release; readable, and different for different sources."""
    place = hashlib.sha256(release_url(source, version).encode()).hexdigest()[:12]
    plain = re.sub(r"[^A-Za-z0-9.+-]", "_", version)
    return f"{plain}-{place}{'-airgap' if airgap else ''}"


def _download(
    http: Http,
    base: str,
    name: str,
    sha256: str,
    work: Path,
    store: Store,
    on_progress: Callable[[FetchProgress], None],
    problems: list[str],
) -> None:
    """Get a file whose digest is listed into ``work``, or say what is wrong with it."""
    with store.locked(DOWNLOADS, sha256), _told(base + name):
        place = store.path(DOWNLOADS, sha256)
        file, found = download_known(
            http, base + name, place, sha256, name=name, limit_bytes=MAX_FILE_BYTES, on_progress=on_progress
        )
        if found == sha256:
            file.rename(work / name)
            shutil.rmtree(place)
        else:
            discard(place)
            problems.append(_mismatch(name, sha256, found))


@contextmanager
def _told(url: str) -> Iterator[None]:
    try:
        yield
    except FetchError as exc:
        reason = exc.message.removeprefix(f"{redact(url)}: ")
        raise K3sReleaseError(
            redact(url),
            [f"cannot be downloaded: {reason}"],
            "Check the version and the network, or download the files yourself and use '--k3s DIR'.",
        ) from exc


def _read_sums(directory: Path, problems: list[str]) -> dict[str, str]:
    path = directory / SUMS
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as exc:
        problems.append(f"{SUMS} cannot be read: {exc.strerror}")
        return {}
    sums = {
        match.group(2): match.group(1)
        for line in text.splitlines()
        if (match := _SUM_LINE.fullmatch(line.strip()))
    }
    if not sums:
        problems.append(f"{SUMS} holds no lines like '<64 hex digits>  {BINARY}'")
    return sums


def _verified(
    directory: Path, name: str, sums: dict[str, str], digests: DigestCache, problems: list[str]
) -> ReleaseFile | None:
    path = directory / name
    if not path.is_file():
        problems.append(f"{name} is missing")
        return None
    found = digests.sha256(path)
    if found != sums.get(name):
        problems.append(_mismatch(name, sums.get(name), found))
        return None
    return ReleaseFile(name=name, path=path, sha256=found, size_bytes=path.stat().st_size)


def _mismatch(name: str, expected: str | None, found: str) -> str:
    if expected is None:
        return f"{name} is not listed in {SUMS}"
    return f"{name} is damaged: its sha256 is {found}, {SUMS} says {expected}"


def _elf_fault(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(20)
    if head[:4] != b"\x7fELF":
        return f"is not an executable for Linux (it starts with {head[:4]!r})"
    machine = int.from_bytes(head[18:20], "little")
    if head[4] != 2 or machine != ELF_AARCH64:
        return f"is not for arm64 (ELF machine {machine}, expected {ELF_AARCH64})"
    return None


def _plain_reader(name: str, file: BinaryIO) -> BinaryIO:
    if name.endswith(".zst"):
        return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    if name.endswith(".gz"):
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]  # a reader of bytes, which is what tarfile needs
    return file
