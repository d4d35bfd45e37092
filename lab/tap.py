"""A board's end of the wire while its bootloader runs: raw Ethernet frames through a tap device."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import time
from types import TracebackType
from typing import Final, Self

from lab.errors import LabError
from lab.runner import run

MAX_FRAME_BYTES: Final = 2048
"""More than an Ethernet frame of a 1500-byte MTU; longer ones would be cut, and none are sent here."""

LINK_TIMEOUT_S: Final = 10.0
_LINK_POLL_S: Final = 0.01

# linux/if_tun.h
_TUNSETIFF: Final = 0x4004_54CA
_TUNSETOFFLOAD: Final = 0x4004_54D0
_IFF_TAP: Final = 0x0002
_IFF_NO_PI: Final = 0x1000


def _has_link(name: str) -> bool:
    """Whether an interface is up and, where it is a bridge's port, forwards."""
    (link,) = json.loads(run(["ip", "-json", "-details", "link", "show", "dev", name]).stdout)
    port = link.get("linkinfo", {}).get("info_slave_data", {})
    return bool(link["operstate"] == "UP" and port.get("state", "forwarding") == "forwarding")


class Tap:
    """An open tap device, non-blocking. Closing it takes the board's link down, so that QEMU can attach."""

    def __init__(self, name: str) -> None:
        self.name = name
        try:
            self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as exc:
            raise LabError(f"/dev/net/tun can not be opened: {exc.strerror}") from exc
        try:
            fcntl.ioctl(self.fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
            # QEMU leaves its offloads switched on; with them the host would hand us frames of 64 KiB without
            # checksums.
            fcntl.ioctl(self.fd, _TUNSETOFFLOAD, 0)
        except OSError as exc:
            os.close(self.fd)
            raise LabError(
                f"tap device {name} can not be attached: {exc.strerror}",
                "It must exist and have no other user; make it with lab.network.add_tap.",
            ) from exc

    def wait_for_link(self, timeout_s: float = LINK_TIMEOUT_S) -> None:
        """Wait until frames get through: the kernel brings a bridge port up some time after the cable is in.

        Raises:
            LabError: There is no link in time.
        """
        deadline = time.monotonic() + timeout_s
        while not _has_link(self.name):
            if time.monotonic() > deadline:
                raise LabError(f"tap device {self.name} has no link after {timeout_s:g} s")
            time.sleep(_LINK_POLL_S)

    def read(self) -> bytes | None:
        """The next frame; None where none is waiting."""
        try:
            return os.read(self.fd, MAX_FRAME_BYTES)
        except BlockingIOError:
            return None

    def write(self, frame: bytes) -> None:
        """Send a frame. A wire may lose frames: one that the kernel does not take is lost."""
        try:
            os.write(self.fd, frame)
        except (BlockingIOError, OSError):
            return

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
