"""Wheels of the packages that are installed here: the same files, without asking a package index.

A wheel is a zip of what was installed, with its RECORD. Source: PEP 427, PEP 376.
"""

from __future__ import annotations

import re
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path


def repack(requirements: list[str], target: Path) -> list[Path]:
    """Write a wheel for each requirement and for whatever those need."""
    target.mkdir(parents=True, exist_ok=True)
    return [_wheel(dist, target) for dist in _closure(requirements)]


def runtime_requirements(pyproject: Path) -> list[str]:
    found: list[str] = tomllib.loads(pyproject.read_text())["project"]["dependencies"]
    return found


def _closure(requirements: list[str]) -> Iterator[Distribution]:
    from packaging.requirements import Requirement

    waiting = [(Requirement(text), "") for text in requirements]
    seen: set[tuple[str, str]] = set()
    given: set[str] = set()
    while waiting:
        need, extra = waiting.pop()
        if need.marker is not None and not need.marker.evaluate({"extra": extra}):
            continue
        name = re.sub(r"[-_.]+", "-", need.name).lower()
        extras = need.extras or {""}
        fresh = {(name, one) for one in extras} - seen
        if not fresh:
            continue
        seen |= fresh
        try:
            dist = distribution(name)
        except PackageNotFoundError as error:
            raise LookupError(f"{name} is not installed here: run 'make setup'") from error
        if name not in given:
            given.add(name)
            yield dist
        waiting += [(Requirement(text), one) for text in dist.requires or () for one in {*extras, ""}]


def _wheel(dist: Distribution, target: Path) -> Path:
    words = dist.read_text("WHEEL") or ""
    tags = re.findall(r"^Tag: (\S+)$", words, re.MULTILINE)
    tag = "-".join(
        ".".join(dict.fromkeys(part)) for part in zip(*(one.split("-") for one in tags), strict=True)
    )
    name = re.sub(r"[-_.]+", "_", dist.metadata["Name"])
    wheel = target / f"{name}-{dist.version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as packed:
        for file in dist.files or ():
            place = file.as_posix()
            if (
                place.startswith("../")
                or "__pycache__" in place
                or place.endswith(("/INSTALLER", "/REQUESTED"))
            ):
                continue  # scripts, which pip makes anew, and what an installation adds
            packed.write(str(file.locate()), place)
    return wheel
