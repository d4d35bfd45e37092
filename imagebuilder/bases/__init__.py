"""Bases: stock images that customisation starts from, and the one that we make from Debian's own packages."""

from imagebuilder.bases.base import Base, BaseInfo
from imagebuilder.bases.catalogue import UnknownBase, catalogue, require_recipe, require_stock
from imagebuilder.bases.debian import build_base
from imagebuilder.bases.fetch import Fetched, fetch_image, fetch_url, import_file
from imagebuilder.bases.meter import FetchProgress
from imagebuilder.bases.progress import Progress
from imagebuilder.bases.recipe import DEBIAN_TRIXIE, DebianRecipe
from imagebuilder.bases.resolve import BaseMissing, find_base, find_declared, require_declared

__all__ = [
    "DEBIAN_TRIXIE",
    "Base",
    "BaseInfo",
    "BaseMissing",
    "DebianRecipe",
    "FetchProgress",
    "Fetched",
    "Progress",
    "UnknownBase",
    "build_base",
    "catalogue",
    "fetch_image",
    "fetch_url",
    "find_base",
    "find_declared",
    "import_file",
    "require_declared",
    "require_recipe",
    "require_stock",
]
