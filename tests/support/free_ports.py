"""A port of loopback for a program that has to be told its port before it binds it."""

from __future__ import annotations

import random
import socket
from typing import Final

LOOPBACK: Final = "127.0.0.1"
PORTS: Final = range(20_000, 32_000)
"""Below those that the kernel gives to clients (from 32768, net.ipv4.ip_local_port_range): one of those may
be some connection's own by the time the program gets there."""


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """One that nobody has, and that nobody gets by chance."""
    while True:
        port = random.choice(PORTS)
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
