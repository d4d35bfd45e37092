"""The bases that there are: names, and finished ones in the store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from imagebuilder.bases.recipe import DEBIAN_TRIXIE, DebianRecipe
from imagebuilder.errors import ImageBuilderError, StoreError
from imagebuilder.store import Store

KIND: Final = "bases"
DISK_NAME: Final = "disk.img"
INFO_NAME: Final = "base.json"
DATA_DIR: Final = Path(__file__).resolve().parent / "debian"

RECIPES: Final[Mapping[str, DebianRecipe]] = {recipe.name: recipe for recipe in (DEBIAN_TRIXIE,)}


class UnknownBase(ImageBuilderError):
    """A base name that the catalogue does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionInfo:
    """A partition of the base. ``start_lba`` and ``sectors`` count 512-byte sectors."""

    number: int
    type: int
    start_lba: int
    sectors: int
    filesystem: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseInfo:
    """What is in a base; its ``base.json``.

    ``kernel_version`` is what ``uname -r`` says on it, ``packages`` maps package → version,
    ``disk_signature`` is the MBR's, ``recipe`` what it was made from, ``built_with`` the tools and the
    archive suites.
    """

    id: str
    name: str
    distribution: str
    suite: str
    architecture: str
    kernel_version: str
    packages: Mapping[str, str]
    layout: tuple[PartitionInfo, ...]
    size_bytes: int
    disk_signature: int
    recipe: Mapping[str, Any]
    built_with: Mapping[str, Any]

    def render(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A finished base: a raw, sparse disk image that nobody writes to, and what is in it."""

    id: str
    name: str
    disk: Path
    info: BaseInfo


def parse_info(text: str) -> BaseInfo:
    """Read the text of a ``base.json``.

    Raises:
        ValueError, KeyError, TypeError: it is not one.
    """
    values = json.loads(text)
    layout = tuple(PartitionInfo(**part) for part in values.pop("layout"))
    return BaseInfo(**values, layout=layout)


def load_base(directory: Path) -> Base:
    """The base in a store entry.

    Raises:
        StoreError: the entry is damaged.
    """
    try:
        info = parse_info((directory / INFO_NAME).read_text())
        disk = directory / DISK_NAME
        if disk.stat().st_size != info.size_bytes:
            raise ValueError(
                f"{DISK_NAME} has {disk.stat().st_size} bytes, {INFO_NAME} says {info.size_bytes}"
            )
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise StoreError(
            f"{directory}: the cached base is damaged: {exc}",
            f"Remove that directory and build the base again: rm -r {directory}; bramble base build NAME",
        ) from exc
    return Base(id=info.id, name=info.name, disk=disk, info=info)


def require_recipe(name: str) -> DebianRecipe:
    """The recipe of base ``name``.

    Raises:
        UnknownBase: there is none.
    """
    recipe = RECIPES.get(name)
    if recipe is None:
        raise UnknownBase(
            f"there is no recipe for a base {name!r}; there is one for: {', '.join(sorted(RECIPES))}",
            "Use one of these names in image.base.",
        )
    return recipe


def recipe_data(root: Path = DATA_DIR) -> dict[str, bytes]:
    """Relative path → content of every file that shapes a Debian base."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def recipe_id(recipe: DebianRecipe) -> str:
    """The id of the store entry that ``recipe`` makes with the files of this release."""
    return recipe.entry_id(recipe_data())


def find_base(name: str, store: Store) -> Base | None:
    """The finished base ``name`` of this release, if it has been built.

    Raises:
        UnknownBase: no such base.
        StoreError: the entry is damaged.
    """
    entry = store.find(KIND, recipe_id(require_recipe(name)))
    return None if entry is None else load_base(entry)
