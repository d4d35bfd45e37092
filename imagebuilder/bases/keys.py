"""Where the keys of publishers are found. Which of them count is decided by their fingerprints alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imagebuilder.bases.catalogue import KEYS_DIR, Publisher
from imagebuilder.bases.http import FetchError, Http
from imagebuilder.bases.openpgp import (
    MAX_KEY_FILE_BYTES,
    KeyFileError,
    dearmor,
    primary_fingerprints,
    read_key_file,
)

INSTALLED: Final = (Path("/usr/share/keyrings"), Path("/etc/apt/keyrings"))
MAX_DOWNLOADED_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Keys:
    """Key material of a publisher; ``tried`` says where it was looked for, one phrase each."""

    material: tuple[bytes, ...]
    tried: tuple[str, ...]


def find_keys(
    publisher: Publisher,
    http: Http,
    *,
    given: Sequence[Path] = (),
    installed: Iterable[Path] = INSTALLED,
) -> Keys:
    """The pinned keys of ``publisher``, from the first place that has one: a file that the user gave, those
    that travel with Bramble, installed keyrings, the publisher's own site.

    Raises:
        KeyFileError: a given file is no key file, or holds none of the pinned keys.
    """
    tried = []
    for path in given:
        material = read_key_file(path)
        if not _pinned(material, publisher):
            raise KeyFileError(
                f"{path}: holds the keys {', '.join(primary_fingerprints(material))}, none of which signs "
                f"for {publisher.title}",
                f"The key that counts has the fingerprint {' or '.join(publisher.keys)}.",
            )
        return Keys((material,), ())
    shipped = [read_key_file(KEYS_DIR / name) for name in publisher.key_files]
    if shipped:
        return Keys(tuple(shipped), ())
    for folder in installed:
        tried.append(f"in {folder}")
        for path in sorted([*folder.glob("*.gpg"), *folder.glob("*.asc")]) if folder.is_dir() else []:
            if (found := _readable(path)) and _pinned(found, publisher):
                return Keys((found,), tuple(tried))
    for url in publisher.key_urls:
        tried.append(f"at {url}")
        try:
            material = dearmor(http.read(url, min(MAX_DOWNLOADED_BYTES, MAX_KEY_FILE_BYTES)))
        except (FetchError, KeyFileError):
            continue  # the next place may have it; the error that ends this names all of them
        if _pinned(material, publisher):
            return Keys((material,), tuple(tried))
    return Keys((), tuple(tried))


def _pinned(material: bytes, publisher: Publisher) -> bool:
    return any(key in publisher.keys for key in primary_fingerprints(material))


def _readable(path: Path) -> bytes | None:
    try:
        return read_key_file(path)
    except KeyFileError:
        return None  # somebody else's file, of a newer format or not for us to read
