"""A file of EEPROM settings: what is wrong with it. (`agent.eeprom` changes one, on the node.)"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Final

from fleet.boards import BoardModel
from fleet.eeprom.keys import KEYS, boot_order_digits

MAX_BYTES: Final = 2024
"""What the EEPROM has room for. Source: rpi-eeprom-config, MAX_FILE_SIZE of bootconf.txt."""
NETWORK_MODES: Final = frozenset("27")
DISK_MODES: Final = frozenset("01456")
STOPS_AT_404: Final = (BoardModel.CM4,)
"""Boards whose bootloader takes HTTP's "not found" for the end, and not for the end of the mode. Source:
rpi-eeprom#763, seen with 2025-08-27 and not with 2025-05-16."""
_SECTION: Final = re.compile(r"\[([^\]]*)\]")
_SETTING: Final = re.compile(r"([A-Za-z][A-Za-z0-9_]*)\s*=\s*(.*)")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong in line `line` (from 1; 0: the file as a whole); `is_error` False: it will
    work.
    """

    line: int
    message: str
    hint: str = ""
    is_error: bool = True


def check_config(text: str, board: BoardModel) -> list[Problem]:
    """Everything that is wrong with a file of settings, for a board that is to boot from the network."""
    problems: list[Problem] = []
    section, orders, seen = "all", list[tuple[int, str]](), dict[tuple[str, str], int]()
    if len(text.encode()) > MAX_BYTES:
        hint = "Take comments out; the EEPROM keeps them too."
        problems.append(Problem(0, f"it has {len(text.encode())} bytes, the EEPROM takes {MAX_BYTES}", hint))
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if (heading := _SECTION.fullmatch(line)) is not None:
            section = heading.group(1)
            continue
        if section == "config.txt":
            continue  # lines for config.txt, which the bootloader appends to it
        setting = _SETTING.fullmatch(line)
        if setting is None:
            problems.append(Problem(number, f"{line!r} is neither KEY=value nor [section]"))
            continue
        key, value = setting.group(1), setting.group(2).strip()
        if (earlier := seen.get((section, key))) is not None:
            hint = "Keep one; the bootloader takes the last."
            problems.append(Problem(number, f"{key} stands in line {earlier} as well", hint, is_error=False))
        seen[section, key] = number
        problems += _check_setting(number, key, value, board)
        if key == "BOOT_ORDER":
            orders.append((number, value))
    if not orders:
        hint = "Without it the board does not boot from the network."
        problems.append(Problem(0, "BOOT_ORDER is missing", hint))
    for number, value in orders[-1:]:
        problems += _check_order(number, value, board)
    return problems


def _check_setting(number: int, key: str, value: str, board: BoardModel) -> list[Problem]:
    check = KEYS.get(key)
    if check is None:
        near = difflib.get_close_matches(key.upper(), KEYS, n=1)
        hint = f"Did you mean {near[0]}?" if near else "The bootloader ignores it, and says nothing."
        return [Problem(number, f"{key} is no setting of the bootloader", hint)]
    fault = check(value, board)
    return [] if fault is None else [Problem(number, f"{key}: {fault}")]


def _check_order(number: int, value: str, board: BoardModel) -> list[Problem]:
    digits = boot_order_digits(value)
    if digits is None:
        return []
    found: list[Problem] = []
    if not NETWORK_MODES & set(digits):
        hint = "Add the 2, for example 0xf612."
        found.append(Problem(number, f"BOOT_ORDER {value} has no network boot (2, or 7 for HTTP)", hint))
    elif digits[0] not in NETWORK_MODES:
        hint = "Put the 2 last in the text: it is tried first, and costs an installed board seconds."
        message = (
            f"BOOT_ORDER {value} tries the network only after a disk: a re-installation can not be ordered"
        )
        found.append(Problem(number, message, hint, is_error=False))
    if not digits.endswith(("f", "e", "3")):
        hint = "Begin it with f: 0xf…"
        message = (
            f"BOOT_ORDER {value} ends after one round: a board that comes up before its server stays dark"
        )
        found.append(Problem(number, message, hint, is_error=False))
    if board in STOPS_AT_404 and DISK_MODES & set(digits.partition("7")[2]):
        hint = (
            "Put the 7 behind the disks, for example 0xf762, or leave it out. One of 2025-08-27 stops "
            "(rpi-eeprom#763), one of 2025-05-16 does not."
        )
        message = (
            f"BOOT_ORDER {value} tries HTTP (7) before a disk: a {board.title} stops at 'not found', "
            "so once it is installed it does not boot"
        )
        found.append(Problem(number, message, hint))
    return found
