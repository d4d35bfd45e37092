"""Everything that a board says of itself, gathered for `agent.pyz facts` and for bug reports."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from agent.hardware import ROOT, read_disks, read_hardware, read_interfaces
from agent.health import find_missing_cgroup, read_health


def collect_facts(root: Path = ROOT) -> dict[str, Any]:
    """JSON-ready values: hardware, interfaces, disks, health and what would keep k3s from starting."""
    missing_cgroup = find_missing_cgroup(root)
    return {
        "hardware": dataclasses.asdict(read_hardware(root)),
        "interfaces": [dataclasses.asdict(interface) for interface in read_interfaces(root)],
        "disks": [{**dataclasses.asdict(disk), "path": str(disk.path)} for disk in read_disks(root)],
        "health": dataclasses.asdict(read_health(root)),
        "problems": [dataclasses.asdict(missing_cgroup)] if missing_cgroup else [],
    }
