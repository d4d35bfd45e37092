"""A virtual board's registers as a file: they outlive a restart of the board, and no power cut."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from lab.bootloader.machine import Registers
from lab.errors import LabError


def read_registers(path: Path) -> Registers:
    """What the running system left behind; nothing where there is no file.

    Raises:
        LabError: It holds something else.
    """
    try:
        return Registers(**json.loads(path.read_text()))
    except FileNotFoundError:
        return Registers()
    except (ValueError, TypeError) as error:
        raise LabError(f"{path} holds no registers of a virtual board: {error}") from error


def write_registers(path: Path, registers: Registers) -> None:
    """Keep them until the board loses its power."""
    path.write_text(json.dumps(asdict(registers)))


def clear_registers(path: Path) -> None:
    """The board lost its power."""
    path.unlink(missing_ok=True)
