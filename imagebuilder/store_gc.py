"""What of the store may go, and making it go.

``plan_removals`` decides and is pure; ``survey`` looks and ``collect`` acts. Nothing that a process uses or
builds is ever removed: the locks say so, and ``Store.evict`` asks them in the same breath in which it
removes.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from imagebuilder.bases.origins import ORIGINS, RECORD_NAME, parse_origin
from imagebuilder.errors import ImageBuilderError
from imagebuilder.store import DOWNLOADS, Store, allocated_bytes, remove_tree

log = logging.getLogger(__name__)

KEEP_UNUSED_S: Final = 30 * 86400.0
KEEP_DOWNLOADS_S: Final = 7 * 86400.0
"""A download that nobody went on with for a week is of a release that has a successor by then."""

FETCHED_KINDS: Final = frozenset(("bases", "k3s", DOWNLOADS))
"""Getting them again takes the network; everything else is made here from them."""

SMALL_KINDS: Final = frozenset((ORIGINS,))
"""Records of a few hundred bytes: they go with what they belong to, never for their own age or size."""


class Place(StrEnum):
    """Where an item lies, which is how it is removed."""

    ENTRY = "entry"
    DOWNLOAD = "download"
    LEFTOVER = "leftover"
    DIGEST = "digest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Something in the store.

    ``size_bytes`` is what it takes on the disk, ``last_used`` seconds since 1970. ``faulty`` says why it is
    of no use to anybody (left by a killed builder, a record of a base that is gone); empty otherwise.
    """

    place: Place
    kind: str
    id: str
    path: Path
    size_bytes: int
    last_used: float
    faulty: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """An item and why it goes."""

    item: Item
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a collection did, or with ``dry_run`` would do.

    ``kept_busy``: what should have gone and is in use. ``size_bytes`` is what the store takes afterwards.
    """

    removed: tuple[Removal, ...]
    kept_busy: tuple[Removal, ...]
    size_bytes: int
    budget_bytes: int | None

    @property
    def freed_bytes(self) -> int:
        return sum(removal.item.size_bytes for removal in self.removed)

    @property
    def is_over_budget(self) -> bool:
        return self.budget_bytes is not None and self.size_bytes > self.budget_bytes


def plan_removals(
    items: Iterable[Item],
    *,
    needed: Collection[tuple[str, str]],
    budget_bytes: int | None,
    unused_s: float,
    now: float,
) -> list[Removal]:
    """What should go: what is of no use, then what was not used for long, then what exceeds the budget, least
    recently used first, and what has to be fetched only after all that is made here.

    Args:
        items: everything in the store.
        needed: (kind, id) of entries that stay whatever happens.
        budget_bytes: what the store may take on the disk; None: any amount.
        unused_s: entries that were not used for so many seconds go.
        now: seconds since 1970.
    """
    removals = []
    rest = []
    size = 0
    for item in items:
        age = now - item.last_used
        limit = KEEP_DOWNLOADS_S if item.place is Place.DOWNLOAD else unused_s
        size += item.size_bytes
        if item.faulty:
            removals.append(Removal(item=item, reason=item.faulty))
        elif item.kind in SMALL_KINDS or (item.kind, item.id) in needed:
            continue
        elif age >= limit:
            removals.append(Removal(item=item, reason=f"not used for {age / 86400:.0f} days"))
        else:
            rest.append(item)
    size -= sum(removal.item.size_bytes for removal in removals)
    for item in sorted(
        rest, key=lambda item: (item.kind in FETCHED_KINDS, item.last_used, item.kind, item.id)
    ):
        if budget_bytes is None or size <= budget_bytes:
            break
        removals.append(Removal(item=item, reason=f"over the budget of {budget_bytes / 1e9:.1f} GB"))
        size -= item.size_bytes
    return removals


def survey(store: Store) -> list[Item]:
    """Everything in the store, sorted by place, kind and id. Marks nothing as used."""
    found = [*_entries(store), *_downloads(store), *_leftovers(store), *_digests(store)]
    return sorted(found, key=lambda item: (item.place, item.kind, item.id))


def collect(
    store: Store,
    *,
    needed: Collection[tuple[str, str]] = (),
    budget_bytes: int | None = None,
    unused_s: float = KEEP_UNUSED_S,
    now: float,
    dry_run: bool = False,
) -> Report:
    """Remove what ``plan_removals`` says, as far as nobody uses it.

    Raises:
        StoreError: the store cannot be written.
    """
    items = survey(store)
    size = sum(item.size_bytes for item in items)
    removed: list[Removal] = []
    busy: list[Removal] = []
    plan = plan_removals(items, needed=needed, budget_bytes=budget_bytes, unused_s=unused_s, now=now)
    for removal in plan:
        gone = _is_free(store, removal.item) if dry_run else _remove(store, removal.item)
        (removed if gone else busy).append(removal)
    if not dry_run and any(removal.item.kind == "bases" for removal in removed):
        orphans = [item for item in _entries(store) if item.kind == ORIGINS and item.faulty]
        removed += [Removal(item=item, reason=item.faulty) for item in orphans if _remove(store, item)]
    freed = sum(removal.item.size_bytes for removal in removed)
    return Report(
        removed=tuple(removed), kept_busy=tuple(busy), size_bytes=size - freed, budget_bytes=budget_bytes
    )


def keep_budget(store: Store, now: float) -> Report | None:
    """Keep the store to its own budget, where it has one; what this object or another process uses stays.

    Called when a build has ended, so a failure is only logged: the build has succeeded.

    Returns:
        What was done, None where there is no budget or the store could not be written.
    """
    if store.budget_bytes is None:
        return None
    try:
        report = collect(
            Store(store.root),
            needed=store.held,
            budget_bytes=store.budget_bytes,
            unused_s=math.inf,
            now=now,
        )
    except (ImageBuilderError, OSError) as exc:
        log.warning("the cache could not be kept to its budget", extra={"error": str(exc)})
        return None
    if report.removed:
        names = [f"{removal.item.kind}/{removal.item.id}" for removal in report.removed]
        log.info("cache trimmed", extra={"freed_bytes": report.freed_bytes, "removed": names})
    if report.is_over_budget:
        log.warning(
            "the cache takes more than its budget, and all of it is in use or needed",
            extra={"size_bytes": report.size_bytes, "budget_bytes": report.budget_bytes},
        )
    return report


def _entries(store: Store) -> list[Item]:
    found = []
    for kind in store.kinds():
        for path in store.entries(kind):
            if path.is_symlink():
                continue  # somebody else's, lent to this store
            found.append(
                Item(
                    place=Place.ENTRY,
                    kind=kind,
                    id=path.name,
                    path=path,
                    size_bytes=allocated_bytes(path),
                    last_used=store.last_used(kind, path.name),
                    faulty=_orphan(store, path) if kind == ORIGINS else "",
                )
            )
    return found


def _orphan(store: Store, entry: Path) -> str:
    """Why the record of a base's origin is of no use; empty where it is."""
    try:
        origin = parse_origin((entry / RECORD_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, KeyError):
        return "a record that cannot be read"
    return "" if store.path("bases", origin.base_id).is_dir() else "its base is gone"


def _downloads(store: Store) -> list[Item]:
    directory = store.root / DOWNLOADS
    return [
        Item(
            place=Place.DOWNLOAD,
            kind=DOWNLOADS,
            id=path.name,
            path=path,
            size_bytes=allocated_bytes(path),
            last_used=max((child.stat().st_mtime for child in path.iterdir()), default=path.stat().st_mtime),
        )
        for path in (directory.iterdir() if directory.is_dir() else ())
        if path.is_dir()
    ]


def _leftovers(store: Store) -> list[Item]:
    """What builders that died left in ``tmp``; what living ones have there is found to be locked."""
    directory = store.root / "tmp"
    found = []
    for path in directory.iterdir() if directory.is_dir() else ():
        kind, _, entry_id = path.name.removeprefix("~").partition(".")
        found.append(
            Item(
                place=Place.LEFTOVER,
                kind=kind,
                id=entry_id,
                path=path,
                size_bytes=allocated_bytes(path),
                last_used=path.lstat().st_mtime,
                faulty="left by a builder that was killed",
            )
        )
    return found


def _digests(store: Store) -> list[Item]:
    """Remembered digests of files that are no more."""
    directory = store.root / "digests"
    found = []
    for path in directory.iterdir() if directory.is_dir() else ():
        try:
            alive = Path(json.loads(path.read_text())["key"][0]).exists()
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            alive = False
        if not alive:
            found.append(
                Item(
                    place=Place.DIGEST,
                    kind="digests",
                    id=path.name,
                    path=path,
                    size_bytes=allocated_bytes(path),
                    last_used=path.stat().st_mtime,
                    faulty="the digest of a file that is gone",
                )
            )
    return found


def _is_free(store: Store, item: Item) -> bool:
    if item.place is Place.DIGEST or not item.id:
        return True
    places = ("uses", "locks") if item.place is Place.ENTRY else ("locks",)
    with store.locked_at_once(item.kind, item.id, places) as free:
        return free


def _remove(store: Store, item: Item) -> bool:
    if item.place is Place.ENTRY:
        return store.evict(item.kind, item.id)
    if item.place is Place.DIGEST or not item.id:
        item.path.unlink(missing_ok=True) if item.path.is_file() else remove_tree(item.path)
        return True
    with store.locked_at_once(item.kind, item.id, ("locks",)) as free:
        if free:
            remove_tree(item.path)
        return free
