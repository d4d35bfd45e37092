#!/usr/bin/env python3
"""A stand-in for rpi-eeprom-config, for virtual boards: it says that it is one.

Same command line as far as the agent uses it: without arguments it prints the settings; ``--apply FILE``
keeps
FILE for the next start, as the real tool does. The "EEPROM" is a directory, $BRAMBLE_STAND_IN_EEPROM:
``bootconf.txt`` is what the board runs with, ``pending.txt`` what it takes over when it restarts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

NOTICE = "stand-in for rpi-eeprom-config: no real EEPROM is read or written"


def main(arguments: list[str]) -> int:
    directory = Path(os.environ["BRAMBLE_STAND_IN_EEPROM"])
    current, pending = directory / "bootconf.txt", directory / "pending.txt"
    print(NOTICE, file=sys.stderr)
    match arguments:
        case []:
            print(current.read_text() if current.exists() else "", end="")
        case ["--apply", file]:
            pending.write_bytes(Path(file).read_bytes())
        case ["--restart"]:  # of the stand-in only: the board restarts
            if pending.exists():
                pending.replace(current)
        case _:
            print(f"arguments are {arguments}, expected none or --apply FILE", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
