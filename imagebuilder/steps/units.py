"""systemd units of the stock system that a node must not have, or must have on: links in /etc/systemd/system.

Units are enabled as ``systemctl enable`` would, by their links; nothing of the image is executed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from imagebuilder.dialects import MANNERS
from imagebuilder.disk.edits import Edit, PutLink
from imagebuilder.steps.step import Context, Json

UNIT_DIRECTORIES: Final = ("/etc/systemd/system", "/usr/lib/systemd/system")
LINKS: Final = "/etc/systemd/system"
TARGET: Final = "multi-user.target"


@dataclass(frozen=True, slots=True)
class UnitsStep:
    """Masks and enables units that are there; of a unit that is not there nothing is said."""

    name: str = "units of the base"

    def identity(self) -> Mapping[str, Json]:
        return {
            "units": {
                dialect.value: [list(manner.masked_units), list(manner.enabled_units)]
                for dialect, manner in MANNERS.items()
            }
        }

    def edits(self, context: Context) -> Sequence[Edit]:
        edits: list[Edit] = []
        for unit in context.manner.masked_units:
            if _find(context, unit):
                edits.append(PutLink(path=f"{LINKS}/{unit}", target="/dev/null"))
        for unit in context.manner.enabled_units:
            if place := _find(context, unit):
                edits.append(PutLink(path=f"{LINKS}/{TARGET}.wants/{unit}", target=place))
        return edits


def _find(context: Context, unit: str) -> str | None:
    places = (f"{directory}/{unit}" for directory in UNIT_DIRECTORIES)
    return next((place for place in places if context.disk.read_root(place) is not None), None)
