"""`power` and `disk.keep` of cluster.yaml: shared outlets, secrets in two places, labels that are none."""

from __future__ import annotations

from typing import Any

import pytest
from fakes_spec import changed, check

from fleet.spec.draft import PathKind
from fleet.spec.load import CheckedCluster

HTTP = "http://10.0.0.1"
SNMP = {"driver": "snmp-poe", "host": "switch", "port": 1}
FILES = {"c": PathKind.FILE, "p": PathKind.FILE}


def powers(first: Any, second: Any) -> CheckedCluster:
    return check(changed(("nodes.0.power", first), ("nodes.1.power", second)), paths=FILES)


def said(checked: CheckedCluster, place: str) -> str:
    return " / ".join(problem.message for problem in checked.problems if problem.key == place)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"driver": "tasmota", "url": HTTP}, {"driver": "tasmota", "url": f"{HTTP}:80/", "output": 1}),
        ({"driver": "shelly", "url": HTTP}, {"driver": "shelly", "url": "HTTP://10.0.0.1", "channel": 0}),
        ({**SNMP, "community_file": "c"}, {**SNMP, "group": 1, "udp_port": 161, "community_file": "p"}),
        ({"driver": "command", "on": ["a"], "off": ["b"]}, {"driver": "command", "on": ["c"], "off": ["b"]}),
    ],
    ids=["tasmota", "shelly", "snmp", "command"],
)
def test_two_nodes_with_one_outlet_are_refused(first: Any, second: Any) -> None:
    checked = powers(first, second)
    assert checked.spec is None
    assert "have one and the same outlet" in said(checked, "nodes[1].power")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"driver": "tasmota", "url": HTTP, "output": 1}, {"driver": "tasmota", "url": HTTP, "output": 2}),
        ({"driver": "shelly", "url": HTTP, "channel": 1}, {"driver": "shelly", "url": HTTP}),
        ({**SNMP, "community_file": "c"}, {**SNMP, "port": 2, "community_file": "c"}),
        ({**SNMP, "community_file": "c"}, {**SNMP, "group": 2, "community_file": "c"}),
        *[({"driver": "command", "on": ["a", "{node}"], "off": ["b", "{node}"], "status": ["c"]},) * 2],
        ("manual", "manual"),
    ],
    ids=["outputs", "channels", "ports", "groups", "command", "manual"],
)
def test_outlets_of_one_device_are_told_apart(first: Any, second: Any) -> None:
    assert powers(first, second).spec is not None


@pytest.mark.parametrize(
    ("power", "place", "words"),
    [
        (SNMP, "community_file", "needs 'community_file' (version 2c) or 'user' (version 3)"),
        ({**SNMP, "user": "u"}, "auth_password_file", "has no 'auth_password_file'"),
        ({**SNMP, "user": "u", "auth_password_file": "p", "community_file": "c"}, "", "and a user"),
        ({**SNMP, "user": "u", "auth_password_file": "p", "privacy": "aes"}, "", "'privacy_password_file'"),
        ({**SNMP, "community_file": "c", "auth": "sha"}, "", "no 'user'"),
        ({**SNMP, "community_file": "c", "community_env": "C"}, "community_env", "both say where"),
        (
            {"driver": "shelly", "url": HTTP, "password_file": "p", "password_env": "P"},
            "password_env",
            "both say where",
        ),
        ({"driver": "shelly", "url": HTTP, "off_for": "10m"}, "off_for", "120"),
        ({"driver": "command", "on": ["a"], "off": ["b"], "timeout": "5m"}, "timeout", "60"),
    ],
    ids=["nothing", "no password", "both", "half privacy", "no user", "twice", "shelly", "long", "slow"],
)
def test_what_a_driver_lacks_or_has_twice_is_said(power: Any, place: str, words: str) -> None:
    checked = powers("manual", power)
    assert checked.spec is None
    assert words in said(checked, f"nodes[1].power.{place}".rstrip("."))


def test_password_in_the_place_of_its_variables_name_is_not_shown() -> None:
    checked = powers("manual", {"driver": "shelly", "url": HTTP, "password_env": "hunter2hunter2"})
    assert checked.spec is None
    assert all("hunter2" not in str(problem) for problem in checked.problems)


def test_commands_that_can_not_be_asked_are_warned_of() -> None:
    checked = powers("manual", {"driver": "command", "on": ["a"], "off": ["b"]})
    assert checked.spec is not None
    assert "nobody can tell whether it worked" in said(checked, "nodes[1].power")


@pytest.mark.parametrize(
    ("disk", "place", "words"),
    [
        ({"kind": "sd", "keep": ["a", "b", "c"]}, "disk.keep", "3 partitions"),
        ({"kind": "sd", "keep": ["a", "a"]}, "disk.keep", "stands twice"),
        ({"kind": "sd", "root": "4G"}, "disk.root", "too small"),
        ({"kind": "sd", "keep": ["a label"]}, "disk.keep[0]", "is not a label"),
        ({"kind": "sd", "keep": ["x" * 17]}, "disk.keep[0]", "is not a label"),
    ],
    ids=["too many", "twice", "small root", "blank", "long"],
)
def test_what_can_not_be_kept_is_said_before_an_installer_finds_out(
    disk: Any, place: str, words: str
) -> None:
    checked = check(changed(("nodes.1.disk", disk)))
    assert checked.spec is None
    assert words in said(checked, f"nodes[1].{place}")


def test_kept_partitions_and_the_roots_size_reach_the_node() -> None:
    checked = check(changed(("nodes.1.disk", {"kind": "sd", "keep": ["data"], "root": "16G"})))
    assert checked.spec is not None
    assert checked.spec.nodes[1].disk.keep == ("data",)
    assert checked.spec.nodes[1].disk.root_mib == 16384
