"""From what cluster.yaml says of its base to a base in the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from fleet.spec.model import BaseRef, CatalogueBase, FileBase, UrlBase
from imagebuilder.bases.base import Base
from imagebuilder.bases.catalogue import RECIPES, catalogue, find_recipe_base, unknown_base
from imagebuilder.bases.fetch import file_digest, import_file
from imagebuilder.bases.meter import FetchProgress
from imagebuilder.bases.origins import find_origin
from imagebuilder.errors import ImageBuilderError
from imagebuilder.store import Store


class BaseMissing(ImageBuilderError):
    """The base is not in the store, and getting it takes the network or minutes."""


def find_base(name: str, store: Store) -> Base | None:
    """The base that the catalogue calls ``name``: this release's recipe, or the newest stock image in the
    store.

    Raises:
        UnknownBase: no such base.
        StoreError: the entry is damaged.
    """
    if (recipe := RECIPES.get(name)) is not None:
        return find_recipe_base(recipe, store)
    if name not in catalogue().stock:
        raise unknown_base(name)
    found = find_origin(store, lambda origin: origin.name == name)
    return None if found is None else found[1]


def find_declared(base: BaseRef, store: Store) -> Base | None:
    """The base that a cluster.yaml names, if the store has it. The network is not used.

    Raises:
        UnknownBase: no such name.
        ImageBuilderError: a file that is not there, or not the one whose digest is given.
        StoreError: the entry is damaged.
    """
    match base:
        case CatalogueBase(name):
            return find_base(name, store)
        case UrlBase(_, sha256):
            found = find_origin(store, lambda origin: origin.file_sha256 == sha256)
        case FileBase(path, expected):
            digest = file_digest(path, store, expected)
            found = find_origin(store, lambda origin: origin.file_sha256 == digest)
        case _:
            assert_never(base)
    return None if found is None else found[1]


def require_declared(
    base: BaseRef, store: Store, on_progress: Callable[[FetchProgress], None] = lambda progress: None
) -> Base:
    """Like ``find_declared``; a file of this machine is unpacked into the store where it is not there yet.

    Raises:
        BaseMissing: with what to type.
        The errors of ``find_declared`` and ``import_file``.
    """
    if found := find_declared(base, store):
        return found
    match base:
        case CatalogueBase(name):
            what = f"bramble base {'build' if name in RECIPES else 'fetch'} {name}"
            raise BaseMissing(f"the base {name!r} is not there yet", f"Get it with: {what}")
        case UrlBase(url, sha256):
            raise BaseMissing(
                f"the base {url} is not there yet", f"Get it with: bramble base fetch {url} --sha256 {sha256}"
            )
        case FileBase(path, sha256):
            return import_file(path, sha256, store=store, on_progress=on_progress).base
        case _:
            assert_never(base)
