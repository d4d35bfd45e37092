"""Restarts the board into the installer, on order of the control server.

A board of the Pi 5 family is told to start from the network this once: its firmware keeps a boot order for
one restart in a register that a power cut empties. Others, and those with an older bootloader, start from the
network when their EEPROM names it before the disk; if it does not, nothing is restarted, and the answer says
what to change.

    vcmailbox 0x0003808b 4 4 ORDER       boot order of the next start (BCM2712, bootloader of 2025-01-14)
    vcmailbox 0x0003808c 8 8 1 INTENT    boot_arg1, until the board loses power (BCM2712, 2025-02-11)
    vcmailbox 0x0003008c 8 8 1 0         reads it back

The answer is the message's words: 0 size, 1 0x80000000 where it was taken, 2 tag, 3 room for values, 4 bit 31
where the tag is known and the values' length, 5 … values. Source: rpi-eeprom release notes, firmware-2712, of
these dates; raspberrypi/utils, vcmailbox; Raspberry Pi firmware wiki, "Mailbox property interface".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from agent.commands import CommandError, Runner
from agent.errors import AgentError
from agent.hardware import DEVICE_TREE, ROOT, parse_device_tree_u32
from agent.protocol import Hardware, RebootOrder

TOOL = "vcmailbox"
EEPROM_TOOL = "rpi-eeprom-config"
ONE_SHOT_SINCE = 1736812800
"""2025-01-14, UTC."""
BOOT_ARG_SINCE = 1739232000
"""2025-02-11, UTC."""
SET_REBOOT_ORDER, SET_BOOT_ARG, GET_BOOT_ARG = "0x0003808b", "0x0003808c", "0x0003008c"
TAKEN = 0x80000000
NETWORK = 2
DEFAULT_BOOT_ORDER = "0xf41"
"""Source: Raspberry Pi documentation, "BOOT_ORDER"."""
RESTART_WORDS = ("systemctl", "reboot")
BCM2711, BCM2712 = 3, 4
"""Processor field of the revision code. Source: Raspberry Pi documentation, "Revision codes"."""
_BOOT_ORDER = re.compile(r"0x[0-9a-f]{1,8}")
_SETTING = re.compile(r"\s*(\[[^\]]*\]|BOOT_ORDER\s*=\s*(\S+))\s*")


@dataclass(frozen=True)
class Prepared:
    """The board is ready to be restarted; `text` says how it will start."""

    text: str
    one_shot: bool


def prepare(order: RebootOrder, hardware: Hardware, run: Runner, root: Path = ROOT) -> Prepared:
    """Have the next start come from the network; the caller restarts the board.

    Raises:
        AgentError: It would start its old system again: what to change. Nothing is to be restarted.
    """
    if not _BOOT_ORDER.fullmatch(order.boot_order):
        raise AgentError(
            f"the order's boot order {order.boot_order!r} is no number like 0xf62",
            "This is a bug of the control server; please report it.",
        )
    why_not = _refuse_one_shot(hardware, read_bootloader_build(root))
    if why_not is None:
        try:
            return _set_one_shot(order, run, read_bootloader_build(root) or 0)
        except CommandError as exc:
            why_not = f"'{TOOL}' failed ({exc.message.splitlines()[0]})"
        except AgentError as exc:
            why_not = exc.message
    return _rely_on_eeprom(run, why_not)


def read_bootloader_build(root: Path = ROOT) -> int | None:
    """When the bootloader was built, UTC seconds; None where the firmware does not tell."""
    try:
        return parse_device_tree_u32((root / DEVICE_TREE / "chosen/bootloader/build-timestamp").read_bytes())
    except OSError:
        return None


def read_boot_arg(root: Path = ROOT) -> int | None:
    """boot_arg1 as this board was started with; None where it has none, or 0."""
    try:
        value = parse_device_tree_u32((root / DEVICE_TREE / "chosen/bootloader/arg1").read_bytes())
    except OSError:
        return None
    return value or None


def _refuse_one_shot(hardware: Hardware, build: int | None) -> str | None:
    processor = None if hardware.revision is None else hardware.revision >> 12 & 0xF
    if processor != BCM2712:
        return f"a {hardware.model} has no boot order for one start"
    if build is None:
        return "the firmware does not tell how old its bootloader is"
    if build < ONE_SHOT_SINCE:
        return "its bootloader is older than 2025-01-14 and has no boot order for one start"
    return None


def _set_one_shot(order: RebootOrder, run: Runner, build: int) -> Prepared:
    _ask(run, SET_REBOOT_ORDER, "4", "4", order.boot_order)
    text = f"starts once with boot order {order.boot_order}"
    if build >= BOOT_ARG_SINCE:
        _ask(run, SET_BOOT_ARG, "8", "8", "1", str(order.intent))
        words = _ask(run, GET_BOOT_ARG, "8", "8", "1", "0")
        if words[6:7] != [order.intent]:
            raise AgentError(f"boot_arg1 was set to {order.intent} and reads {words[5:]}")
        text += f" and intent {order.intent} in boot_arg1"
    return Prepared(text, one_shot=True)


def _ask(run: Runner, tag: str, *arguments: str) -> list[int]:
    """One property message; the words of its answer.

    Raises:
        CommandError: The tool is missing or fails.
        AgentError: The firmware does not know the tag.
    """
    # In a unit of its own: this service does not see the firmware's device.
    unit = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect"]
    text = run([*unit, TOOL, tag, *arguments]).text
    words = [int(word, 16) for word in text.split() if re.fullmatch(r"0x[0-9a-fA-F]{1,8}", word)]
    if len(words) < 6 or words[1] != TAKEN or not words[4] & TAKEN:
        raise AgentError(f"the firmware does not take {tag}: it answers {text.strip()[:200]!r}")
    return words


def _rely_on_eeprom(run: Runner, why_not: str) -> Prepared:
    order = _read_boot_order(run)
    if order is None:
        return Prepared(f"{why_not}; its boot order is not known, it is restarted as it is", one_shot=False)
    first = order & 0xF
    if first == NETWORK:
        return Prepared(f"starts from the network first (BOOT_ORDER={order:#x}); {why_not}", one_shot=False)
    raise AgentError(
        f"its boot order {order:#x} does not begin with the network, so a restart would start the old system "
        f"again; {why_not}",
        "'bramble eeprom apply NODE' puts the network first; restart the node after that.",
    )


def _read_boot_order(run: Runner) -> int | None:
    """BOOT_ORDER of the EEPROM's section [all]; the firmware's own where it has none; None where nobody
    tells."""
    try:
        text = run([EEPROM_TOOL]).text
    except CommandError:
        return None
    if not text.strip():
        return None
    section, found = "[all]", DEFAULT_BOOT_ORDER
    for line in text.splitlines():
        match = _SETTING.fullmatch(line)
        if match is None:
            continue
        if match[2] is None:
            section = match[1]
        elif section == "[all]":
            found = match[2]
    try:
        return int(found, 16)
    except ValueError:
        return None
