"""Tell systemd that a `Type=notify` unit is ready. Source: sd_notify(3)."""

from __future__ import annotations

import os
import socket


def ready() -> None:
    """Send READY=1 to the service manager, if one listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # abstract namespace
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.sendto(b"READY=1\n", address)
