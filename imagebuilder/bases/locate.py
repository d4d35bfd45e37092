"""Find the newest file of a stock image on its publisher's site or a mirror, and what vouches for it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urljoin, urlsplit

from imagebuilder.bases.catalogue import StockImage, release_order
from imagebuilder.bases.http import FetchError, Http, redact
from imagebuilder.bases.keys import Keys
from imagebuilder.bases.openpgp import check_signature
from imagebuilder.bases.sums import MAX_BYTES, parse_sums
from imagebuilder.errors import ImageBuilderError

SUMS: Final = "SHA256SUMS"
SUMS_SIGNATURE: Final = "SHA256SUMS.gpg"
SIDECAR: Final = ".sha256"
DETACHED: Final = ".sig"
MAX_SIGNATURE_BYTES: Final = 64 << 10
FOLDERS_TRIED: Final = 3
"""A folder is made before its files are copied into it, so the newest may still be empty."""

_LINK: Final = re.compile(r"""href\s*=\s*["']([^"'?#]+)["']""", re.IGNORECASE)


class NotFound(ImageBuilderError):
    """The site does not have the image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A file of a stock image.

    Attributes:
        sha256: what a list or sidecar says of it, None where there is none.
        signer: fingerprint of the key that signed that list; None: the digest is only a claim.
        signature: detached signature of the file itself, where there is one.
        doubts: why nothing proves the file so far; one phrase each, empty when ``signer`` is there.
    """

    release: str
    url: str
    file_name: str
    sha256: str | None
    signer: str | None
    signature: bytes | None
    doubts: tuple[str, ...]


def locate(image: StockImage, http: Http, site: str, find_keys: Callable[[], Keys]) -> Located:
    """The newest file of ``image`` below ``site``.

    Args:
        image: which.
        http: the client.
        site: URL of the publisher's files or of a mirror of them, ending in ``/``.
        find_keys: the publisher's keys, asked for when a signature is to be checked.

    Raises:
        NotFound: the site has no file of this image.
        BadSignature: the list of digests is signed, and wrongly.
        FetchError, SumsError
    """
    match image.locate:
        case "sums":
            return _in_sums(image, http, urljoin(site, image.directory), find_keys)
        case "releases":
            url, release = _in_releases(image, http, site)
            return _with_sidecars(url, release, http)


def _in_sums(image: StockImage, http: Http, folder: str, find_keys: Callable[[], Keys]) -> Located:
    data = http.read(urljoin(folder, SUMS), MAX_BYTES)
    signer, doubts = _sums_signer(image, data, http, folder, find_keys)
    sums = parse_sums(data, redact(urljoin(folder, SUMS)))
    found = {release: name for name in sums.by_name if (release := image.release_of(name)) is not None}
    if not found:
        raise NotFound(
            f"{sums.source}: lists no image of {image.name}; it lists {', '.join(sorted(sums.by_name)[:5])}",
            "The site may be rebuilding the folder; try again later, or use another --mirror.",
        )
    release = max(found, key=release_order)
    return Located(
        release=release,
        url=urljoin(folder, quote(found[release])),
        file_name=found[release],
        sha256=sums.require(found[release]),
        signer=signer,
        signature=None,
        doubts=doubts,
    )


def _sums_signer(
    image: StockImage, data: bytes, http: Http, folder: str, find_keys: Callable[[], Keys]
) -> tuple[str | None, tuple[str, ...]]:
    """Who signed the list, or why that cannot be told."""
    signature = _read_if_there(http, urljoin(folder, SUMS_SIGNATURE))
    if signature is None:
        return None, (f"there is no {SUMS_SIGNATURE} beside {SUMS}",)
    keys = find_keys()
    if not keys.material:
        return None, (missing_key(image, keys),)
    with tempfile.TemporaryDirectory(prefix="bramble-sums-") as name:
        signed = Path(name) / SUMS
        signed.write_bytes(data)
        return check_signature(signed, signature, keys.material, image.publisher.keys).fingerprint, ()


def missing_key(image: StockImage, keys: Keys) -> str:
    """Why a signature cannot be checked."""
    publisher = image.publisher
    places = ", ".join(keys.tried) or "nowhere"
    return f"the key {' or '.join(publisher.keys)} of {publisher.title} was not found (looked {places})"


def _in_releases(image: StockImage, http: Http, site: str) -> tuple[str, str]:
    """URL and release of the newest file."""
    seen = ""
    try:
        url = http.redirect_target(urljoin(site, image.latest))
        seen = unquote(urlsplit(url).path.rpartition("/")[2])
        if (release := image.release_of(seen)) is not None:
            return url, release
    except FetchError as exc:
        if exc.status not in (403, 404):
            raise
    # A mirror lacks the redirect; or "latest" has moved on to the next Debian, and older folders still have
    # ours.
    folder = urljoin(site, image.directory)
    listing = _links(http, folder)
    releases = {
        match["release"]: name for name in listing if (match := image.folder.fullmatch(name.rstrip("/")))
    }
    for release in sorted(releases, key=release_order, reverse=True)[:FOLDERS_TRIED]:
        place = urljoin(folder, f"{quote(releases[release].rstrip('/'))}/")
        for name in _links(http, place):
            if (built := image.release_of(name)) is not None:
                return urljoin(place, quote(name)), built
    newest = f"; the newest there is {seen}" if seen else ""
    raise NotFound(
        f"{redact(folder)}: no file of {image.name} in the newest {FOLDERS_TRIED} of {len(releases)} "
        f"releases{newest}",
        "Give the image by its URL and sha256 in image.base, or use another --mirror.",
    )


def _links(http: Http, url: str) -> list[str]:
    """Names that a directory listing links to, directly below it; folders end in ``/``."""
    text = http.read(url, MAX_BYTES).decode(errors="replace")
    below = urlsplit(url)
    names = []
    for link in _LINK.findall(text):
        target = urlsplit(urljoin(url, link.replace("&amp;", "&")))
        name = unquote(target.path.removeprefix(below.path))
        if target.netloc == below.netloc and target.path.startswith(below.path) and name.rstrip("/"):
            names.append(name)
    return [name for name in dict.fromkeys(names) if "/" not in name.rstrip("/")]


def _with_sidecars(url: str, release: str, http: Http) -> Located:
    """The file with its digest and signature, as far as they are there."""
    name = unquote(urlsplit(url).path.rpartition("/")[2])
    sidecar = _read_if_there(http, url + SIDECAR)
    signature = _read_if_there(http, url + DETACHED)
    return Located(
        release=release,
        url=url,
        file_name=name,
        sha256=None if sidecar is None else parse_sums(sidecar, redact(url + SIDECAR)).require(name),
        signer=None,
        signature=signature,
        doubts=() if signature else (f"there is no signature {name}{DETACHED}",),
    )


def _read_if_there(http: Http, url: str) -> bytes | None:
    try:
        return http.read(url, MAX_BYTES if url.endswith(SIDECAR) else MAX_SIGNATURE_BYTES)
    except FetchError as exc:
        if exc.status in (403, 404, 410):
            return None
        raise
