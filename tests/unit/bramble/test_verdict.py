"""The verdict on a guest that reported."""

from __future__ import annotations

import dataclasses

import pytest

from bramble.verdict import Expectation, Outcome, judge
from lab.witness import Report

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHZ me@example.org"
GOOD: dict[str, tuple[str, ...]] = {
    "model": ("Raspberry Pi 4 Model B Rev 1.5",),
    "kernel": ("6.12",),
    "page-bytes": ("4096",),
    "root": ("/dev/mmcblk0p2 8000000000",),
    "boot": ("/dev/mmcblk0p1",),
    "cloud-init": ("status: done extended_status: done errors: []",),
    "datasource": ("nocloud config-disk",),
    "instance-id": ("proof-1",),
    "system": ("running",),
    "hostname": ("pi4-agent",),
    "timezone": ("Europe/Madrid",),
    "user": ("pi /bin/bash",),
    "key": (f"pi {KEY}",),
    "address": ("eth0 10.77.0.33/24",),
    "disk-id": ("1a2b3c4d-02",),
    "controllers": ("cpuset cpu io memory pids",),
    "ssh": ("enabled disabled",),
    "host-keys": ("3",),
    "agent": ("NRestarts=0 LoadState=loaded ActiveState=active SubState=running",),
    "agent-log": ("waiting for the control server",),
    "k3s": ("-rwxr-xr-x disabled disabled",),
    "end": ("",),
}
EXPECTED = Expectation(
    hostname="pi4-agent",
    user="pi",
    ssh_authorized_keys=(KEY,),
    timezone="Europe/Madrid",
    address="10.77.0.33/24",
    instance_id="proof-1",
    disk_signature=0x1A2B3C4D,
)


def failed(facts: dict[str, tuple[str, ...]], expected: Expectation | None = EXPECTED) -> set[str]:
    return {line.what for line in judge(Report(facts=facts), expected) if line.outcome is Outcome.FAILED}


def test_a_node_that_is_what_it_should_be_fails_in_nothing() -> None:
    assert failed(GOOD) == set()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"hostname": ("raspberrypi",)}, "host name"),
        ({"timezone": ("Etc/UTC",)}, "time zone"),
        ({"user": ("ubuntu /bin/bash",)}, "user"),
        ({"user": ("pi /usr/sbin/nologin",)}, "user"),
        ({"key": ()}, "ssh key"),
        ({"key": (f"ubuntu {KEY}",)}, "ssh key"),
        ({"address": ("eth0 10.77.0.15/24",)}, "address"),
        ({"address": ()}, "address"),
        ({"instance-id": ("nocloud",)}, "instance"),
        ({"disk-id": ("ffffffff-02",)}, "disk"),
        ({"controllers": ("cpu pids",)}, "memory cgroup"),
        ({"ssh": ("disabled disabled",)}, "ssh"),
        ({"host-keys": ("0",)}, "host keys"),
        ({"agent": ("NRestarts=5 LoadState=loaded ActiveState=failed SubState=failed",)}, "agent"),
        ({"agent": ("NRestarts=0 LoadState=not-found ActiveState=inactive SubState=dead",)}, "agent"),
        ({"k3s": ("",)}, "k3s"),
        ({"boot": ("",)}, "boot partition"),
        ({"cloud-init": ("status: error errors: [x]",)}, "cloud-init"),
        ({"cloud-init": ("status: running",)}, "cloud-init"),
        ({"cloud-init": ("status: done errors: - module failed",)}, "cloud-init"),
        ({"cloud-init": ("status: done errors: [] recoverable_errors: WARNING: - x",)}, "cloud-init"),
        ({"failed": ("cloud-final.service",), "log": ("cloud-final.service: x",)}, "unit failed"),
    ],
)
def test_each_setting_that_was_not_applied_fails_the_proof(
    change: dict[str, tuple[str, ...]], what: str
) -> None:
    assert failed({**GOOD, **change}) == {what}


def test_a_notice_of_deprecation_is_no_fault() -> None:
    text = "status: done extended_status: degraded done errors: [] recoverable_errors: DEPRECATED: - fs_label"
    assert failed({**GOOD, "cloud-init": (text,)}) == set()


def test_a_foreign_unit_that_failed_is_told_and_decides_nothing() -> None:
    facts = {**GOOD, "failed": ("regulatory.service",), "log": ("regulatory.service: no radio",)}
    assert failed(facts) == set()
    told = [line for line in judge(Report(facts=facts), EXPECTED) if line.what == "unit failed"]
    assert [line.outcome for line in told] == [Outcome.TOLD]
    assert told[0].text == "regulatory.service: no radio"


def test_without_a_cluster_it_is_enough_to_boot() -> None:
    bare = {key: GOOD[key] for key in ("model", "kernel", "page-bytes", "root", "boot", "system")}
    assert failed(bare, None) == set()


def test_a_node_that_uses_dhcp_needs_any_address() -> None:
    dhcp = dataclasses.replace(EXPECTED, address=None)
    assert failed({**GOOD, "address": ("eth0 10.77.0.15/24",)}, dhcp) == set()
    assert failed({**GOOD, "address": ()}, dhcp) == {"address"}


def test_a_key_that_the_report_cut_short_still_counts() -> None:
    long = f"ssh-rsa {'A' * 3000} me"
    expected = dataclasses.replace(EXPECTED, ssh_authorized_keys=(long,))
    assert failed({**GOOD, "key": (f"pi {long}"[:1000],)}, expected) == set()
