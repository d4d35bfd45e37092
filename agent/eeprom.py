"""Writes bootloader settings into the board's EEPROM, on order of the control server.

The order's settings are merged into what the EEPROM holds; nothing else of it changes. It is carried out
once: a second attempt takes a new order. They take effect at the next restart of the board.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.commands import CommandError, Runner
from agent.errors import AgentError
from agent.files import write_atomically
from agent.protocol import EepromOrder, Hardware

TOOL = "rpi-eeprom-config"
APPLY_TIMEOUT_S = 100.0
"""Below the two minutes of the service's watchdog: whoever is ended by that tells nobody."""
MAX_BYTES = 2024
"""What the EEPROM has room for (rpi-eeprom-config)."""
_SECTION = re.compile(r"\[([^\]]*)\]")
_SETTING = re.compile(r"([A-Za-z][A-Za-z0-9_]*)\s*=\s*(.*)")
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class Written:
    """What an order changed: ``KEY: old -> new`` each; empty where all of it stood there already."""

    changes: tuple[str, ...]


def carry_out(order: EepromOrder, hardware: Hardware, run: Runner, directory: Path) -> Written:
    """Merge the order's settings into the EEPROM.

    Args:
        directory: the agent's own, for the file that the tool reads.

    Raises:
        AgentError: the board is another model, the order is malformed, the tool is missing or refuses.
        Nothing
            was changed.
    """
    _require_sound(order)
    _require_board(order, hardware)
    try:
        before = run([TOOL]).text
    except CommandError as exc:
        if exc.returncode is None:
            raise AgentError(
                f"{TOOL} can not be run here, so the EEPROM was not touched",
                "Install the package rpi-eeprom on the node, then order it again.",
            ) from exc
        raise
    after = merge_config(before, order.settings)
    changes = tuple(_changes(before, order.settings))
    if not changes:
        return Written(())
    if len(after.encode()) > MAX_BYTES:
        raise AgentError(
            f"the EEPROM takes {MAX_BYTES} bytes of settings, these would be {len(after.encode())}",
            f"Take comments out of them on the node: {TOOL} --edit",
        )
    path = directory / "eeprom.conf"
    write_atomically(path, after.encode())
    try:
        # In a unit of its own: this service may write its own files only, the tool needs the boot partition.
        unit = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect"]
        run([*unit, TOOL, "--apply", str(path)], timeout_s=APPLY_TIMEOUT_S)
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
    return Written(changes)


def merge_config(text: str, settings: Mapping[str, str]) -> str:
    """The file with these settings in its ``[all]`` section; comments, other keys and sections stay."""
    missing, section = dict(settings), "all"
    merged: list[str] = []
    end_of_all = None
    for line in text.splitlines():
        heading, setting = _SECTION.fullmatch(line.strip()), _SETTING.fullmatch(line.strip())
        if heading is not None:
            section = heading.group(1)
        if section == "all" and setting is not None and setting.group(1) in settings:
            key = setting.group(1)
            if key not in missing:
                continue  # a second line of it
            line = f"{key}={missing.pop(key)}"
        merged.append(line)
        if section == "all" and line.strip():
            end_of_all = len(merged)
    added = [f"{key}={value}" for key, value in missing.items()]
    if end_of_all is None:
        merged = ["[all]", *added, *(["", *merged] if merged else [])]
    else:
        merged[end_of_all:end_of_all] = added
    return "\n".join(merged).rstrip("\n") + "\n"


def _changes(before: str, settings: Mapping[str, str]) -> list[str]:
    """The difference in words, for the timeline."""
    section, known = "all", dict[str, str]()
    for line in before.splitlines():
        heading, setting = _SECTION.fullmatch(line.strip()), _SETTING.fullmatch(line.strip())
        if heading is not None:
            section = heading.group(1)
        elif setting is not None and section == "all":
            known[setting.group(1)] = setting.group(2).strip()
    return [
        f"{key}: {known.get(key, 'not set')} -> {value}"
        for key, value in settings.items()
        if known.get(key) != value
    ]


def _require_sound(order: EepromOrder) -> None:
    for key, value in order.settings.items():
        if not _KEY.fullmatch(key) or not value.isascii() or not value.isprintable():
            raise AgentError(
                f"the order's setting {key!r} is not one line of KEY=value, so the EEPROM was not touched",
                "This is a bug of the control server; please report it.",
            )


def _require_board(order: EepromOrder, hardware: Hardware) -> None:
    """The type field of the revision code. Source: Raspberry Pi documentation, "Raspberry Pi revision
    codes".
    """
    found = None if hardware.revision is None else hardware.revision >> 4 & 0xFF
    if found != order.board_type:
        shown = "says no model" if found is None else f"is of type {found:#04x} ({hardware.model})"
        raise AgentError(
            f"the settings are for boards of type {order.board_type:#04x}, this one {shown}: the EEPROM was "
            "not touched",
            "Correct 'board' of the node in cluster.yaml, then order it again.",
        )
