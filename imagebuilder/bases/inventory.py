"""What bases there are: the catalogue's, own ones, and which of them are in the store."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.spec.values import suggest
from imagebuilder.bases.base import KIND, Base, load_base
from imagebuilder.bases.catalogue import RECIPES, UnknownBase, catalogue, find_recipe_base
from imagebuilder.bases.origins import ORIGINS, Origin, find_origin, origins
from imagebuilder.errors import StoreError
from imagebuilder.store import Store, allocated_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A base that has a name or is in the store. ``base`` is None where it is not there, ``origin`` None for
    one that was made here."""

    name: str
    title: str
    mirror_hint: str = ""
    base: Base | None = None
    origin: Origin | None = None

    def to_json(self) -> dict[str, Any]:
        origin = self.origin
        return {
            "name": self.name,
            "id": self.base.id if self.base else None,
            "path": os.fspath(self.base.disk) if self.base else None,
            "title": self.title or None,
            "release": origin.release or None if origin else None,
            "proof": origin.proof.value if origin else None,
            "evidence": origin.evidence if origin else None,
        }


def list_bases(store: Store) -> list[Row]:
    """The catalogue, each with its newest release in the store, then the user's own bases.

    Raises:
        StoreError: an entry is damaged.
    """
    known = catalogue()
    rows = []
    for name in known.names:
        if (image := known.stock.get(name)) is not None:
            found = find_origin(store, lambda origin, name=name: origin.name == name)  # type: ignore[misc]  # bound on purpose
            origin, base = found or (None, None)
            hint = f" (mirror: ${image.publisher.mirror_variable})"
            rows.append(Row(name=name, title=image.title, mirror_hint=hint, base=base, origin=origin))
        else:
            recipe = RECIPES[name]
            title = f"Debian {recipe.suite} from its own packages, laid out like Raspberry Pi OS"
            rows.append(Row(name=name, title=title, base=find_recipe_base(recipe, store)))
    own = [(origin, base) for origin, base in _present(store) if origin.name not in known.stock]
    rows += [Row(name=origin.name, title="", base=base, origin=origin) for origin, base in own]
    return rows


def require_rows(what: str, store: Store) -> list[Row]:
    """All that is in the store of base ``what``: a name, URL, path, or an id or the start of one; newest
    first.

    Raises:
        UnknownBase: nothing is.
        StoreError: an entry is damaged.
    """
    path = os.fspath(Path(what).absolute())
    rows = [
        Row(name=origin.name, title="", base=base, origin=origin)
        for origin, base in _present(store)
        if what == origin.name or path == origin.name or _is_id(what, base.id)
    ]
    made = {
        entry.name
        for entry in store.entries(KIND)
        if _is_id(what, entry.name)
        or any(what == name and entry.name.startswith(f"{name}-") for name in RECIPES)
    } - {row.base.id for row in rows if row.base}
    for entry_id in sorted(made):
        if (entry := store.find(KIND, entry_id)) is not None:
            base = load_base(entry)
            rows.append(Row(name=base.name, title="", base=base))
    if not rows:
        raise _not_in_store(what)
    return rows


def _not_in_store(what: str) -> UnknownBase:
    """The error for what may be a name that is not fetched yet, or one that is mistyped."""
    known = catalogue()
    if what in known.names:
        way = "build" if what in known.recipes else "fetch"
        hint = f"Get it with: bramble base {way} {what}"
    else:
        hint = f"{suggest(what, known.names)} 'bramble base list' says which are here, your own among them."
    return UnknownBase(f"no base {what!r} is in the cache", hint)


def remove_rows(what: str, store: Store) -> int:
    """Remove what ``require_rows`` finds; a base that has other names too only loses this one.

    Returns:
        Bytes that are free again.

    Raises:
        UnknownBase: nothing is there.
        StoreError: a base is in use; then nothing of it was removed.
    """
    rows = require_rows(what, Store(store.root))  # an object of its own, which is gone when we remove
    ids = dict.fromkeys(row.base.id for row in rows if row.base)
    names = {(row.origin.name, row.base.id) for row in rows if row.origin and row.base}
    freed = 0
    for base_id in ids:
        others = [
            origin
            for _, origin in origins(store)
            if origin.base_id == base_id and (origin.name, base_id) not in names
        ]
        if not others:
            size = allocated_bytes(store.path(KIND, base_id))
            if not store.evict(KIND, base_id):
                raise StoreError(
                    f"{base_id}: is in use by another process", "End what builds from it, and try again."
                )
            freed += size
        for entry, origin in origins(store):
            if (origin.name, origin.base_id) in names and origin.base_id == base_id:
                store.evict(ORIGINS, entry.name)
    return freed


def _present(store: Store) -> list[tuple[Origin, Base]]:
    """Origins whose base is in the store, newest first."""
    found = []
    for _, origin in sorted(origins(store), key=lambda pair: pair[1].fetched_at, reverse=True):
        entry = store.find(KIND, origin.base_id)
        if entry is not None:
            found.append((origin, load_base(entry, origin.name)))
    return found


def _is_id(what: str, base_id: str) -> bool:
    short = what.removeprefix("sha256-")
    return what == base_id or (len(short) >= 8 and base_id.removeprefix("sha256-").startswith(short))
