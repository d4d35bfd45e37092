"""A small good cluster that tests change in one place, and the check without a file system."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from fleet.spec import CheckedCluster
from fleet.spec.draft import PathKind, Surroundings
from fleet.spec.load import check_text

SSH_KEY = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOb5ICyR/moRjIBIesOWNVvHSygkEpNBXkBwUi1EE8Xr someone@example.org"
)
DELETE = object()
"""Given to `changed`, takes a key out."""

_GOOD: dict[str, Any] = {
    "version": 1,
    "cluster": {"name": "attic", "k3s": {"version": "v1.33.5+k3s1"}},
    "image": {
        "base": "raspios-lite-trixie",
        "user": {"ssh_authorized_keys": [SSH_KEY]},
        "timezone": "Europe/Madrid",
    },
    "network": {
        "interface": "eth0",
        "dhcp": "full",
        "subnet": "192.168.86.0/24",
        "gateway": "192.168.86.1",
        "pool": "192.168.86.200-192.168.86.230",
    },
    "nodes": [
        {
            "name": "pi5-1",
            "board": "pi5",
            "role": "server",
            "mac": "2c:cf:67:12:34:56",
            "address": "192.168.86.33",
            "disk": "nvme",
        },
        {
            "name": "pi4-1",
            "board": "pi4",
            "role": "agent",
            "serial": "10000000d03114aa",
            "address": "192.168.86.27",
            "disk": "sd",
        },
    ],
}


def changed(*changes: tuple[str, object]) -> str:
    """The good cluster's text with values set by dotted place, `nodes.0.mac`."""
    document = copy.deepcopy(_GOOD)
    for place, value in changes:
        *parents, last = place.split(".")
        target: Any = document
        for part in parents:
            target = target[int(part)] if isinstance(target, list) else target.setdefault(part, {})
        if value is DELETE:
            del target[last]
        elif isinstance(target, list):
            target.insert(int(last), value)
        else:
            target[last] = value
    return yaml.safe_dump(document, sort_keys=False)


def check(text: str, paths: dict[str, PathKind] | None = None) -> CheckedCluster:
    """Check a text; only `paths`, relative to /clusters, exist."""
    known = {Path("/clusters") / name: kind for name, kind in (paths or {}).items()}
    around = Surroundings(
        directory=Path("/clusters"),
        probe=lambda path: known.get(path, PathKind.MISSING),
        timezones=frozenset({"Europe/Madrid", "Etc/UTC"}),
    )
    return check_text(text, Path("cluster.yaml"), around)
