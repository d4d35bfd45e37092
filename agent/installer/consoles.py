"""Lines for whoever looks at the board: on the screen and on the serial line alike.

`/dev/console` is only the last of the kernel's consoles, on a Raspberry Pi the screen. Somebody who compares
a fingerprint may look at either.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

ACTIVE = Path("/sys/class/tty/console/active")
DEVICES = Path("/dev")
PREFIX = "bramble: "


def say_here(line: str) -> None:
    """Write one line to standard output."""
    print(f"{PREFIX}{line}", flush=True)


class Consoles:
    """Writes to every console that the kernel uses; to standard output where it tells of none."""

    def __init__(self, active: Path = ACTIVE, devices: Path = DEVICES) -> None:
        try:
            names = active.read_text("ascii").split()
        except OSError:
            names = []
        self._devices = [devices / name for name in names]

    def say(self, line: str) -> None:
        """Write one line; a console that can not be written is passed over."""
        if not self._devices:
            say_here(line)
        for device in self._devices:
            with contextlib.suppress(OSError), device.open("wb", buffering=0) as console:
                console.write(f"{PREFIX}{line}\r\n".encode())
