#!/usr/bin/env python3
"""A stand-in for vcmailbox, for virtual boards: it says that it is one.

Same command line and same answer as the real tool. The "firmware" is the file $BRAMBLE_STAND_IN_REGISTERS,
which the virtual board reads when it restarts; $BRAMBLE_STAND_IN_PROFILE names its bootloader.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lab.bootloader.profile import PROFILES
from lab.registers import read_registers, write_registers
from lab.vcmailbox import answer

NOTICE = "stand-in for vcmailbox: no real firmware is asked"


def main(arguments: list[str]) -> int:
    path = Path(os.environ["BRAMBLE_STAND_IN_REGISTERS"])
    profile = PROFILES[os.environ.get("BRAMBLE_STAND_IN_PROFILE", "pi5-2025")]
    print(NOTICE, file=sys.stderr)
    try:
        words = [int(word, 0) for word in arguments]
    except ValueError:
        words = []
    if len(words) < 3:
        print("usage: vcmailbox TAG ROOM LENGTH [VALUE…]", file=sys.stderr)
        return 2
    registers = read_registers(path)
    print(" ".join(f"0x{word:08x}" for word in answer(words, registers, profile)))
    write_registers(path, registers)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
