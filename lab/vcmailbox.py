"""The firmware's mailbox as far as a restart into the installer needs it: pure, for virtual boards.

    0 size of the message · 1 code · 2 tag · 3 bytes for values · 4 bytes of values · 5 … values · 0
    an answer: 1 is 0x80000000, and 4 has bit 31 set where the tag is known

Source: Raspberry Pi firmware wiki, "Mailbox property interface"; rpi-eeprom release notes, firmware-2712,
2025-01-14 (reboot order) and 2025-02-11 (boot_arg1, boot_count).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lab.bootloader.machine import Registers
from lab.bootloader.profile import EepromProfile

TAKEN: Final = 0x8000_0000
SET_REBOOT_ORDER: Final = 0x0003_808B
GET_BOOT_ARG, SET_BOOT_ARG = 0x0003_008C, 0x0003_808C


def answer(words: Sequence[int], registers: Registers, profile: EepromProfile) -> list[int]:
    """The firmware's answer to one property message, given as the tool gets it: tag, room, length, values.

    A tag that the firmware of this profile does not know comes back without its bit, as on a board.
    """
    tag, room, _length, *values = (*words, *(0,) * max(4 - len(words), 0))
    values = (values + [0] * (room // 4))[: room // 4]
    known = profile.has_one_shot_order
    match tag, values:
        case 0x0003_808B, [order] if known:
            registers.one_shot_order = order or None
        case 0x0003_808C, [1, value] if known:
            registers.boot_arg1 = value
        case 0x0003_008C, [1, _] if known:
            values = [1, registers.boot_arg1]
        case 0x0003_808D, [value] if known:
            registers.boot_count = value
        case 0x0003_008D, [_] if known:
            values = [registers.boot_count]
        case _:
            known = False
    size = 4 * (6 + len(values))
    return [size, TAKEN, tag, room, (TAKEN | 4 * len(values)) if known else 4 * len(values), *values, 0]
