"""An OS list for Raspberry Pi Imager, with the one image in it. Pure.

``init_format`` is "none": Imager offers no settings of its own for this image. It would write them over the
first-boot data that Bramble put in, and the node would lose its user, its keys and its name.

Source: Raspberry Pi Imager, doc/json-schema/os-list-schema.json (read 2026-11), and the tags of boards in the
``imager.devices`` of its public list.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from fleet.boards import BoardModel, Soc

FILE_NAME: Final = "os_list.json"
ICON: Final = "icons/cat_raspberry_pi_os.png"
"""Comes with Imager: nothing is fetched for it."""
INIT_FORMAT: Final = "none"
_TAGS: Final = {Soc.BCM2711: "pi4-64bit", Soc.BCM2712: "pi5-64bit"}


@dataclass(frozen=True, slots=True, kw_only=True)
class OsEntry:
    """One image. ``url`` is where its file is, ``extract_*`` are of the raw image in it."""

    name: str
    description: str
    url: str
    bmap_url: str
    extract_size: int
    extract_sha256: str
    download_size: int
    download_sha256: str
    release_date: str
    boards: tuple[BoardModel, ...]


def render_os_list(entries: Iterable[OsEntry]) -> str:
    """The list as JSON text."""
    return json.dumps({"os_list": [_entry(entry) for entry in entries]}, indent=1, ensure_ascii=False) + "\n"


def _entry(entry: OsEntry) -> dict[str, object]:
    return {
        "name": entry.name,
        "description": entry.description,
        "icon": ICON,
        "url": entry.url,
        "bmap_url": entry.bmap_url,
        "extract_size": entry.extract_size,
        "extract_sha256": entry.extract_sha256,
        "image_download_size": entry.download_size,
        "image_download_sha256": entry.download_sha256,
        "release_date": entry.release_date,
        "init_format": INIT_FORMAT,
        "architecture": "armv8",
        "devices": sorted({_TAGS[board.soc] for board in entry.boards}),
    }
