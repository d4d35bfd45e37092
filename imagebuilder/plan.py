"""A plan: what will be done to a base, in order, and the id of the image that comes out of it.

The id is the SHA-256 of everything that the result depends on: the base, every step's identity, the
installer's parts, the tools that write filesystems, and the form of what we write. Computing it reads no
image, so an unchanged cluster finds its image at once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import zstandard

from imagebuilder.errors import NotUnderstood
from imagebuilder.runner import run
from imagebuilder.steps.step import Json, Step

FORMAT: Final = 3
"""Raised whenever the same plan would give other bytes than before."""

ID_DIGITS: Final = 40

_VERSION: Final = re.compile(rb"\d+(?:\.\d+)+")
_TOOLS: Final[Mapping[str, tuple[str, ...]]] = {
    "e2fsprogs": ("debugfs", "-V"),
    "mtools": ("mcopy", "--version"),
}
"""Package → command that prints its version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Ordered steps on a base. ``installer`` and ``tools`` count for the id, like the steps.

    ``layer`` is the digest of the package layer that lies over the base before the first step."""

    base_id: str
    steps: tuple[Step, ...]
    installer: Mapping[str, Json]
    tools: Mapping[str, str]
    layer: str | None = None

    @property
    def image_id(self) -> str:
        """40 hex digits that name the result."""
        document = {
            "format": FORMAT,
            "base": self.base_id,
            "steps": [[step.name, step.identity()] for step in self.steps],
            "installer": self.installer,
            "tools": self.tools,
            **({"layer": self.layer} if self.layer else {}),
        }
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]


def tool_versions() -> dict[str, str]:
    """Versions of what writes filesystems and frames; another version may write other bytes.

    Raises:
        MissingTool: a program is not installed.
        NotUnderstood: a program does not say its version.
    """
    versions = {"zstd": ".".join(map(str, zstandard.ZSTD_VERSION))}
    for package, argv in _TOOLS.items():
        result = run(argv, timeout_s=30)
        found = _VERSION.search(result.stdout + result.stderr)
        if found is None:
            raise NotUnderstood(
                f"'{' '.join(argv)}' prints no version: {(result.stdout + result.stderr)[:200]!r}",
                f"Install {package} from your distribution.",
            )
        versions[package] = found.group().decode()
    return versions
