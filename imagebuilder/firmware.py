"""config.txt lines that a board's firmware needs beyond the defaults. Pure.

Debian's kernel of 2025 brings a device tree for the Raspberry Pi 5, and none for its siblings. The bootloader
of a CM5 or a Pi 500 then stops at its os_check. The board's own device tree is used where the image has it;
where it has not, the tree of the same chip's main board stands in, which names the same controllers.
"""

from __future__ import annotations

from typing import Final

from fleet.boards import BoardModel, Soc

STAND_IN: Final = {Soc.BCM2711: "bcm2711-rpi-4-b.dtb", Soc.BCM2712: "bcm2712-rpi-5-b.dtb"}


def device_tree_lines(board: BoardModel, dtbs: frozenset[str]) -> list[str]:
    """What config.txt has to say so that `board` starts with one of the trees `dtbs`; often nothing."""
    stand_in = STAND_IN[board.soc]
    if dtbs.intersection(board.dtb_names) or stand_in not in dtbs:
        return []
    return ["os_check=0", f"device_tree={stand_in}"]
