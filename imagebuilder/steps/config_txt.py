"""config.txt: device trees for boards that the base's kernel brings none for.

Debian's kernel of 2025 has a device tree for the Raspberry Pi 5, and none for its siblings; the bootloader of
a CM5 or a Pi 500 then stops at its os_check. The tree of the same chip's main board names the same
controllers and stands in for the missing one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fleet.boards import BoardModel, Soc
from imagebuilder.disk.edits import Edit, PutBootFile
from imagebuilder.errors import NotUnderstood
from imagebuilder.steps.step import Context, Json

PATH: Final = "/config.txt"
STAND_IN: Final = {Soc.BCM2711: "bcm2711-rpi-4-b.dtb", Soc.BCM2712: "bcm2712-rpi-5-b.dtb"}

FILTERS: Final = {
    BoardModel.PI400: "pi400",
    BoardModel.CM4: "cm4",
    BoardModel.PI500: "pi500",
    BoardModel.CM5: "cm5",
    BoardModel.CM5_LITE: "cm5",
}
"""The conditional filter that holds on a board and not on the main board of its chip.
Source: Raspberry Pi documentation, "Conditional filters in config.txt" (read 2026-11)."""


@dataclass(frozen=True, slots=True)
class ConfigTxtStep:
    """Adds a section to config.txt for each board whose device tree is missing."""

    name: str = "firmware settings"

    def identity(self) -> Mapping[str, Json]:
        stand_ins = {soc.name: name for soc, name in STAND_IN.items()}
        return {"config.txt": {"stand-ins": stand_ins, "filters": sorted(FILTERS.values())}}

    def edits(self, context: Context) -> Sequence[Edit]:
        found = context.disk.read_boot(PATH)
        if found is None:
            raise NotUnderstood(
                "the base's boot partition holds no config.txt",
                "Use a Raspberry Pi image: without config.txt a Raspberry Pi 5 does not boot.",
            )
        trees = {*STAND_IN.values(), *(name for board in FILTERS for name in board.dtb_names)}
        present = {name for name in trees if context.disk.read_boot(name) is not None}
        edited = edit_config(found.decode("utf-8"), present)
        return [PutBootFile(path=PATH, content=edited.encode())]


def edit_config(text: str, present: Collection[str]) -> str:
    """config.txt with a section for each board that needs one.

    Args:
        text: config.txt as it is.
        present: names of the device trees on the boot partition.
    """
    sections: dict[str, str] = {}
    for board, selector in FILTERS.items():
        stand_in = STAND_IN[board.soc]
        if stand_in in present and not any(name in present for name in board.dtb_names):
            sections[selector] = f"[{selector}]\nos_check=0\ndevice_tree={stand_in}\n"
    if not sections:
        return text
    note = "# This kernel has no device tree of its own for these boards.\n"
    return "".join([text.rstrip("\n"), "\n\n", note, *sections.values(), "[all]\n"])
