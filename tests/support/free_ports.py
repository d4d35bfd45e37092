"""A port of loopback for a program that has to be told its port before it binds it."""

from __future__ import annotations

import atexit
import random
import socket
from contextlib import ExitStack
from typing import Final

LOOPBACK: Final = "127.0.0.1"
PORTS: Final = range(20_000, 32_000)
"""Below those that the kernel gives to clients (from 32768, net.ipv4.ip_local_port_range): one of those may
be some connection's own by the time the program gets there."""

_claims = ExitStack()
atexit.register(_claims.close)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """One that nobody has, and that no other test of this machine is given while this process runs."""
    while True:
        port = random.choice(PORTS)
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            if claim(f"port-{port}"):
                return port


def claim(name: str) -> bool:
    """Have a name to ourselves among the processes of this machine; it is free again when this one ends.

    Names of the abstract kind (unix(7)) are no files: a test that is killed leaves nothing.
    """
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        held.bind(f"\0bramble-test-{name}")
    except OSError:
        held.close()
        return False
    _claims.enter_context(held)
    return True
