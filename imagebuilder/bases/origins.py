"""Where a stock image came from, and what proved it: small entries of the store beside the bases.

A base is stored under the digest of its raw disk, so the same image under two names, or from two mirrors, is
kept once. An origin says under which name, from which file, and on whose word it came in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from imagebuilder.bases.base import KIND, Base, load_base
from imagebuilder.bases.catalogue import release_order
from imagebuilder.errors import StoreError
from imagebuilder.store import Store

ORIGINS: Final = "base-origins"
RECORD_NAME: Final = "origin.json"


class Proof(StrEnum):
    """What says that an image is the one that it is taken for."""

    SIGNATURE = "signature"
    """A good signature by a key that the catalogue pins."""
    DIGEST = "digest"
    """The user gave its SHA-256."""
    LOCAL = "local file"
    """The user named a file of this machine."""
    NONE = "unverified"
    """Nothing; the user asked for it by name all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """One way in which a base came in.

    ``name`` is the catalogue's, the URL or the path; ``release`` the publisher's, empty where unknown.
    ``source`` is where the file was read from, without any password; ``file_sha256`` and ``file_bytes`` are
    those of the file as published (compressed). ``proof`` and ``evidence`` say why it is trusted;
    ``fetched_at`` is UTC, ISO 8601.
    """

    name: str
    release: str
    source: str
    file_sha256: str
    file_bytes: int
    base_id: str
    proof: Proof
    evidence: str
    fetched_at: str

    @property
    def entry_id(self) -> str:
        """Name and file make an origin; a later, better proof of the same replaces it."""
        text = json.dumps([self.name, self.file_sha256])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def render(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


def parse_origin(text: str) -> Origin:
    """Read the text of an ``origin.json``.

    Raises:
        ValueError, TypeError, KeyError: it is not one.
    """
    values = json.loads(text)
    return Origin(**{**values, "proof": Proof(values["proof"])})


def write_origin(origin: Origin, store: Store) -> None:
    """Put the record into the store, in place of an older one of the same name and file."""
    with store.create(ORIGINS, origin.entry_id) as work:
        (work / RECORD_NAME).write_text(origin.render(), encoding="utf-8")


def origins(store: Store) -> list[tuple[Path, Origin]]:
    """All records with the entries that they stand in; those that cannot be read are left to ``bramble
    gc``."""
    found = []
    for entry in store.entries(ORIGINS):
        try:
            found.append((entry, parse_origin((entry / RECORD_NAME).read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return found


def find_origin(store: Store, fits: Callable[[Origin], bool]) -> tuple[Origin, Base] | None:
    """The newest release among the origins that ``fits`` takes and whose base is in the store.

    Raises:
        StoreError: the base that it leads to is damaged.
    """
    fitting = [origin for _, origin in origins(store) if fits(origin)]
    for origin in sorted(
        fitting, key=lambda origin: (release_order(origin.release), origin.fetched_at), reverse=True
    ):
        entry = store.find(KIND, origin.base_id)
        if entry is not None:
            base = load_base(entry, origin.name)
            if base.id != origin.base_id:
                raise StoreError(
                    f"{entry}: its base.json is that of {base.id}",
                    "The entry is damaged. Type: bramble store verify --remove",
                )
            return origin, base
    return None
