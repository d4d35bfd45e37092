"""The Pi 4 model's network adapter, plugged in again until its guest has noticed it.

The model reports a device on its USB port once, at power-on. Linux's dwc2 driver sometimes forgets that
report while it starts: each request to the device is refused ("Not connected") until the kernel gives it up,
and the board boots without a network (seen once in some dozens of boots on busy cores, and whenever the
driver is bound anew). What helps a board helps the model: pull the adapter out and plug it in again, until
the guest has given it an address.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from lab.errors import LabError

ADAPTER_ID: Final = "adapter"
PATIENCE_S: Final = 15.0
"""Between two looks. A guest needs half a second to address what it has noticed, seconds on busy cores."""

_DEVICE_LINE: Final = re.compile(rf"Device \d+\.(\d+),.*, ID: {ADAPTER_ID}\b")


class Adapter:
    """Decides when to plug; the monitor's owner calls it and sends what it says."""

    def __init__(
        self,
        properties: Mapping[str, str],
        send: Callable[[str, dict[str, Any]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            properties: of the device, as ``-device`` has them.
            send: sends a QMP command with arguments; its answer comes back by `on_answer`.
            clock: seconds, monotonic.
        """
        self._properties = dict(properties)
        self._send = send
        self._clock = clock
        self._next_look: float | None = clock() + PATIENCE_S

    @property
    def wait_s(self) -> float | None:
        """Seconds until the next `look`; None: the guest has it."""
        return None if self._next_look is None else max(0.0, self._next_look - self._clock())

    def look(self) -> None:
        """Ask, if it is time, whether the guest has noticed the adapter."""
        if self._next_look is not None and self._clock() >= self._next_look:
            self._next_look = self._clock() + PATIENCE_S
            self._send("human-monitor-command", {"command-line": "info usb"})

    def on_answer(self, answer: Any) -> None:
        """Take what the monitor returned to the last command.

        Raises:
            LabError: QEMU shows devices in a form that is not known.
        """
        if not isinstance(answer, str):
            return  # of device_del and device_add: an empty object
        line = _DEVICE_LINE.search(answer)
        if line is None:
            raise LabError(f"QEMU does not list the network adapter that it has: {answer.strip()!r}")
        if int(line[1]) != 0:
            self._next_look = None
            return
        self._send("device_del", {"id": ADAPTER_ID})
        self._send("device_add", self._properties)
