"""A cluster of five hundred nodes: one that is wrong is named, alone, and nothing comes of the others."""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

import pytest
import yaml
from fakes_spec import check

from fleet.spec.load import CheckedCluster

NODES = 500
ODD = 376
LIMIT_S = 20.0
"""It takes half a second of CPU; what compares each node with each in Python takes minutes."""

SPEC: dict[str, Any] = {
    "version": 1,
    "cluster": {"name": "hall", "k3s": {"version": "v1.33.5+k3s1"}},
    "image": {
        "base": "raspios-lite-trixie",
        "user": {
            "name": "pi",
            "ssh_authorized_keys": [
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7fM1q2h1yYJbHn0G3yqkQp0Vb0b7l5w1Wq0n8gq2Zr x"
            ],
        },
    },
    "network": {"interface": "eth0", "dhcp": "full", "subnet": "10.40.0.0/20", "gateway": "10.40.0.1",
                "dns": ["10.40.0.1"]},
    "defaults": {"board": "cm5", "role": "agent", "disk": "nvme"},
}  # fmt: skip


def nodes() -> list[dict[str, Any]]:
    return [
        {
            "name": f"n{number:03}",
            "mac": f"2c:cf:67:40:{number >> 8:02x}:{number & 255:02x}",
            "address": str(IPv4Address("10.40.1.0") + number),
            **({"role": "server", "memory": "8G"} if number < 3 else {}),
        }
        for number in range(NODES)
    ]


def check_with(change: Callable[[list[dict[str, Any]]], object]) -> CheckedCluster:
    declared = nodes()
    change(declared)
    started = time.monotonic()
    found = check(yaml.safe_dump({**SPEC, "nodes": declared}, sort_keys=False))
    assert time.monotonic() - started < LIMIT_S
    return found


def test_five_hundred_good_nodes_are_good() -> None:
    checked = check_with(lambda declared: None)
    assert checked.errors == ()
    assert checked.spec is not None
    assert len(checked.spec.nodes) == NODES


FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "mac": ({"mac": "2c:cf:67:40:1"}, "mac", "2c:cf:67:40:1"),
    "name of another": ({"name": "n007"}, "name", "n007"),
    "address of another": ({"address": "10.40.1.9"}, "address", "n009"),
    "unknown key": ({"addres5": "10.40.3.3"}, "addres5", "address"),
    "no mapping": ({}, "", "mapping"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_one_wrong_node_is_named_and_there_is_no_cluster(name: str) -> None:
    change, key, words = FAULTS[name]

    def spoil(declared: list[Any]) -> None:
        if change:
            declared[ODD].update(change)
        else:
            declared[ODD] = "n376"

    checked = check_with(spoil)
    assert checked.spec is None
    [problem] = checked.errors
    assert problem.key == f"nodes[{ODD}]" + (f".{key}" if key else "")
    assert words in f"{problem.message} {problem.hint}"
    assert problem.line > ODD


def test_every_node_wrong_in_its_own_way_is_told_at_once() -> None:
    def spoil(declared: list[dict[str, Any]]) -> None:
        for number in range(3, NODES):
            declared[number]["mac"] = f"no mac {number}"

    checked = check_with(spoil)
    assert checked.spec is None
    assert [problem.key for problem in checked.errors] == [f"nodes[{n}].mac" for n in range(3, NODES)]
