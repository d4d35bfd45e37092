"""Bases: stock images that customisation starts from, and the one that we make from Debian's own packages."""

from imagebuilder.bases.catalogue import Base, BaseInfo, UnknownBase, find_base, require_recipe
from imagebuilder.bases.debian import build_base
from imagebuilder.bases.progress import Progress
from imagebuilder.bases.recipe import DEBIAN_TRIXIE, DebianRecipe

__all__ = [
    "DEBIAN_TRIXIE",
    "Base",
    "BaseInfo",
    "DebianRecipe",
    "Progress",
    "UnknownBase",
    "build_base",
    "find_base",
    "require_recipe",
]
