"""Interfaces in a network namespace that is a program's own."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence


def lay_cables(addresses: Mapping[str, Sequence[str]]) -> None:
    """An interface for each name, with its addresses, at a cable whose other end is free."""
    commands = ["mount -t sysfs sysfs /sys", "ip link set lo up"]
    for number, (name, own) in enumerate(addresses.items()):
        commands += [
            f"ip link add {name} type veth peer name peer{number}",
            *(f"ip address add {address}/24 dev {name}" for address in own),
            f"ip link set {name} up",
            f"ip link set peer{number} up",
        ]
    for command in commands:
        subprocess.run(command.split(), check=True)
