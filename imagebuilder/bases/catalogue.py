"""The bases that have a name: stock images out of ``catalogue.toml``, and those made here from packages."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from fleet.spec.values import suggest
from imagebuilder.bases.base import KIND, Base, load_base
from imagebuilder.bases.recipe import DEBIAN_TRIXIE, DebianRecipe
from imagebuilder.errors import ImageBuilderError
from imagebuilder.store import Store

DATA_DIR: Final = Path(__file__).resolve().parent / "debian"
CATALOGUE: Final = Path(__file__).resolve().parent / "catalogue.toml"
KEYS_DIR: Final = Path(__file__).resolve().parent / "keys"
VERSION: Final = 1

RECIPES: Final[Mapping[str, DebianRecipe]] = {recipe.name: recipe for recipe in (DEBIAN_TRIXIE,)}

T = TypeVar("T")


class UnknownBase(ImageBuilderError):
    """A base name that the catalogue does not have."""


class CatalogueError(ImageBuilderError):
    """``catalogue.toml`` is not what this release understands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """Who serves stock images; ``keys`` are the fingerprints of primary keys whose signatures count."""

    name: str
    title: str
    url: str
    mirror_variable: str
    keys: tuple[str, ...]
    key_files: tuple[str, ...] = ()
    key_urls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StockImage:
    """A stock image of the catalogue: where it is found, and what proves it. The file says what each
    means."""

    name: str
    title: str
    publisher: Publisher
    locate: Literal["sums", "releases"]
    directory: str
    file: re.Pattern[str]
    signature: Literal["sums.gpg", "detached"]
    max_download_mib: int
    max_disk_mib: int
    latest: str = ""
    folder: re.Pattern[str] = re.compile("")

    def release_of(self, file_name: str) -> str | None:
        """The release that a file's name says; None where the file is not one of this image."""
        match = self.file.fullmatch(file_name)
        return match["release"] if match else None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Every base that has a name."""

    stock: Mapping[str, StockImage]
    recipes: Mapping[str, DebianRecipe]

    @property
    def names(self) -> list[str]:
        return sorted([*self.stock, *self.recipes])


def release_order(release: str) -> tuple[tuple[int, str], ...]:
    """A sort key that has 24.04.4 after 24.04, and 24.04.10 after 24.04.9."""
    parts = re.split(r"[.-]", release)
    return tuple((int(part), "") if re.fullmatch(r"[0-9]{1,18}", part) else (-1, part) for part in parts)


@functools.cache
def catalogue() -> Catalogue:
    """The catalogue that travels with Bramble.

    Raises:
        CatalogueError: the install is damaged.
    """
    try:
        return parse_catalogue(CATALOGUE.read_text(encoding="utf-8"))
    except OSError as exc:
        raise CatalogueError(
            f"{CATALOGUE}: cannot be read: {exc.strerror}",
            "The install is incomplete. Install Bramble again.",
        ) from exc


def parse_catalogue(text: str) -> Catalogue:
    """Read the text of a catalogue.

    Raises:
        CatalogueError: with everything in it that is not understood.
    """
    problems: list[str] = []
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise _unusable([f"it is not TOML: {exc}"]) from exc
    if document.get("version") != VERSION:
        raise _unusable([f"version is {document.get('version')!r}, expected {VERSION}"])
    publishers = {}
    for name, table in document.get("publishers", {}).items():
        publisher = _make(Publisher, f"publishers.{name}", {"name": name, **table}, problems)
        if publisher is not None:
            publishers[name] = publisher
            problems += _publisher_problems(publisher)
    stock = {}
    for name, table in document.get("bases", {}).items():
        values = {"name": name, **table}
        where = f"bases.{name}"
        values["publisher"] = publishers.get(str(values.get("publisher")))
        if values["publisher"] is None:
            problems.append(f"{where}.publisher: {table.get('publisher')!r} is not described")
        for key in ("file", "folder"):
            if key in values:
                values[key] = _pattern(f"{where}.{key}", str(values[key]), problems)
        image = _make(StockImage, where, values, problems)
        if image is not None:
            stock[name] = image
            problems += _image_problems(where, image)
    recipes = {}
    for name in document.get("recipes", []):
        if name in RECIPES:
            recipes[name] = RECIPES[name]
        else:
            problems.append(f"recipes: {name!r} is not one of {', '.join(sorted(RECIPES))}")
    if problems:
        raise _unusable(problems)
    return Catalogue(stock, recipes)


def require_stock(name: str) -> StockImage:
    """The stock image of that name.

    Raises:
        UnknownBase: there is none; a recipe is said to be one.
    """
    image = catalogue().stock.get(name)
    if image is None:
        if name in RECIPES:
            raise UnknownBase(
                f"{name!r} is not downloaded, it is made here from Debian's packages",
                f"Type: bramble base build {name}",
            )
        raise unknown_base(name)
    return image


def require_recipe(name: str) -> DebianRecipe:
    """The recipe of base ``name``.

    Raises:
        UnknownBase: there is none.
    """
    recipe = RECIPES.get(name)
    if recipe is None:
        if name in catalogue().stock:
            raise UnknownBase(
                f"{name!r} is a stock image, it is not built here", f"Type: bramble base fetch {name}"
            )
        raise unknown_base(name)
    return recipe


def unknown_base(name: str) -> UnknownBase:
    """The error for a name that the catalogue does not have."""
    return UnknownBase(
        f"there is no base {name!r}",
        f"{suggest(name, catalogue().names)} 'bramble base list' says what each is. An image of your own is "
        "named by its file, or by its URL with its sha256.",
    )


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


def find_recipe_base(recipe: DebianRecipe, store: Store) -> Base | None:
    """The finished base of this release's recipe, if it has been built.

    Raises:
        StoreError: the entry is damaged.
    """
    entry = store.find(KIND, recipe_id(recipe))
    return None if entry is None else load_base(entry)


def _make(kind: type[T], where: str, values: dict[str, Any], problems: list[str]) -> T | None:
    """``kind(**values)``, or the problems that are in the way."""
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]  # both kinds are dataclasses
    found = [f"{where}.{key}: unknown key" for key in values if key not in known]
    found += [
        f"{where}.{key}: missing" for key in known if key not in values and known[key].default is MISSING
    ]
    problems += found
    lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    return None if found else kind(**{**values, **lists})


def _pattern(where: str, text: str, problems: list[str]) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except re.error as exc:
        problems.append(f"{where}: not a regular expression: {exc}")
        return re.compile("(?P<release>)")
    if "release" not in pattern.groupindex:
        problems.append(f"{where}: has no group named 'release'")
    return pattern


def _publisher_problems(publisher: Publisher) -> list[str]:
    where = f"publishers.{publisher.name}"
    problems = [
        f"{where}.keys: {key!r} is not a fingerprint of 40 upper-case hex digits"
        for key in publisher.keys
        if not re.fullmatch(r"[0-9A-F]{40}", key)
    ]
    if not publisher.keys:
        problems.append(f"{where}.keys: is empty; an image that nobody signs has no place here")
    for url in (publisher.url, *publisher.key_urls):
        if not url.startswith("https://"):
            problems.append(f"{where}: {url!r} is not an https URL")
    if not publisher.url.endswith("/"):
        problems.append(f"{where}.url: {publisher.url!r} does not end in '/'")
    return problems


def _image_problems(where: str, image: StockImage) -> list[str]:
    problems = [
        f"{where}.{key}: {value!r} is not one of {', '.join(allowed)}"
        for key, value, allowed in (
            ("locate", image.locate, ("sums", "releases")),
            ("signature", image.signature, ("sums.gpg", "detached")),
        )
        if value not in allowed
    ]
    if image.locate == "releases" and not (image.latest and image.folder.pattern):
        problems.append(f"{where}: locate = 'releases' needs `latest` and `folder`")
    if image.signature == "sums.gpg" and image.locate != "sums":
        problems.append(f"{where}: signature = 'sums.gpg' needs locate = 'sums'")
    return problems


def _unusable(problems: list[str]) -> CatalogueError:
    return CatalogueError(
        "\n".join(f"{CATALOGUE.name}: {problem}" for problem in problems),
        "The install is damaged. Install Bramble again.",
    )
