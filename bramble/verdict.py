"""What a proof says: the guest's own report, held against what cluster.yaml wants of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from fleet.spec.model import ClusterSpec, NodeSpec
from lab.witness import Report

OURS: Final = ("bramble-", "cloud-", "k3s", "ssh", "systemd-networkd", "NetworkManager", "boot-firmware")
"""Units whose failure fails the proof; of others it is told. A virtual board lacks some hardware."""


class Outcome(StrEnum):
    """How one thing went."""

    OK = "ok"
    FAILED = "failed"
    TOLD = "told"
    """Worth knowing; it decides nothing."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a verdict: ``what`` in a word or two, ``text`` what was seen."""

    outcome: Outcome
    what: str
    text: str

    def to_json(self) -> dict[str, str]:
        return {"outcome": self.outcome.value, "what": self.what, "text": self.text}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a node must be after its first boot. ``address`` carries its prefix length; None: DHCP."""

    hostname: str
    user: str
    ssh_authorized_keys: tuple[str, ...]
    timezone: str
    address: str | None
    instance_id: str | None
    disk_signature: int | None

    @classmethod
    def of(
        cls, spec: ClusterSpec, node: NodeSpec, *, instance_id: str | None, disk_signature: int | None
    ) -> Expectation:
        return cls(
            hostname=node.name,
            user=spec.image.user.name,
            ssh_authorized_keys=spec.image.user.ssh_authorized_keys,
            timezone=spec.image.timezone,
            address=f"{node.address}/{spec.network.subnet.prefixlen}" if node.address else None,
            instance_id=instance_id,
            disk_signature=disk_signature,
        )


def judge(report: Report, expected: Expectation | None) -> tuple[Line, ...]:
    """All lines of the verdict on a guest that reported."""
    lines = [*_system(report)]
    if expected is not None:
        lines += _settings(report, expected)
        lines += _node(report)
    return tuple(lines)


def _system(report: Report) -> Iterator[Line]:
    seen = f"{report.one('model')}, kernel {report.one('kernel')}, pages of {report.one('page-bytes')} bytes"
    yield Line(Outcome.TOLD, "booted", seen)
    yield Line(Outcome.TOLD, "root", report.one("root"))
    cloud_init = report.one("cloud-init")
    if cloud_init:
        source = report.one("datasource")
        text = cloud_init
        if _is_fine(cloud_init):
            told = ", with notices of deprecation" if "DEPRECATED:" in cloud_init else ""
            text = f"done, seed from {source}{told}"
        yield Line(Outcome.OK if _is_fine(cloud_init) else Outcome.FAILED, "cloud-init", text)
    failed = report.all("failed")
    for unit in failed:
        text = next((line for line in report.all("log") if line.startswith(f"{unit}: ")), unit)
        yield Line(Outcome.FAILED if unit.startswith(OURS) else Outcome.TOLD, "unit failed", text)
    if not failed:
        yield Line(Outcome.OK, "units", f"none failed ({report.one('system')})")
    if not report.one("boot"):
        yield Line(Outcome.FAILED, "boot partition", "it is not mounted")


def _is_fine(status: str) -> bool:
    """Whether ``cloud-init status --long`` says that everything was done. It calls a boot degraded for a
    notice that a setting of the base will be gone in some years; that is no fault."""
    kinds = set(re.findall(r"\b(DEPRECATED|WARNING|ERROR|CRITICAL):", status))
    failed = re.search(r"(?<!_)errors: (?!\[\])", status)
    return "status: done" in status and not failed and not kinds - {"DEPRECATED"}


def _settings(report: Report, expected: Expectation) -> Iterator[Line]:
    yield _equal("host name", report.one("hostname").split(".")[0], expected.hostname)
    yield _equal("time zone", report.one("timezone"), expected.timezone)
    users = {line.split()[0]: line for line in report.all("user") if line}
    found = users.get(expected.user)
    if found is None:
        yield Line(
            Outcome.FAILED, "user", f"{expected.user!r} is missing; there is {', '.join(users) or 'nobody'}"
        )
    else:
        shut = found.endswith(("nologin", "false"))
        yield Line(Outcome.FAILED if shut else Outcome.OK, "user", found)
    keys = [line.removeprefix(f"{expected.user} ") for line in report.all("key")]
    for key in expected.ssh_authorized_keys:
        # The report cuts long lines.
        present = any(line and key.startswith(line[:900]) for line in keys)
        yield Line(Outcome.OK if present else Outcome.FAILED, "ssh key", f"{key[:50]}…")
    addresses = report.all("address")
    if expected.address is not None:
        present = any(line.split()[-1:] == [expected.address] for line in addresses)
        seen = ", ".join(addresses) or "none"
        yield Line(
            Outcome.OK if present else Outcome.FAILED, "address", f"{seen} (expected {expected.address})"
        )
    else:
        yield Line(Outcome.OK if addresses else Outcome.FAILED, "address", ", ".join(addresses) or "none")
    if expected.instance_id is not None and report.one("cloud-init"):
        yield _equal("instance", report.one("instance-id"), expected.instance_id)
    if expected.disk_signature is not None:
        yield _equal("disk", report.one("disk-id").split("-")[0], f"{expected.disk_signature:08x}")


def _node(report: Report) -> Iterator[Line]:
    """What every node of ours has, whatever cluster.yaml says."""
    has_memory = "memory" in report.one("controllers").split()
    yield Line(Outcome.OK if has_memory else Outcome.FAILED, "memory cgroup", report.one("controllers"))
    enabled = "enabled" in report.one("ssh").split()
    yield Line(Outcome.OK if enabled else Outcome.FAILED, "ssh", report.one("ssh"))
    yield _positive("host keys", report.one("host-keys"))
    # systemctl gives the properties in an order of its own.
    agent = dict(word.split("=", 1) for word in report.one("agent").split() if "=" in word)
    runs = agent.get("LoadState") == "loaded" and agent.get("ActiveState") in ("active", "activating")
    log = report.one("agent-log")
    seen = f"{agent.get('LoadState', 'not reported')}, {agent.get('ActiveState', '')}: {log}"
    yield Line(Outcome.OK if runs else Outcome.FAILED, "agent", seen)
    k3s = report.one("k3s")
    yield Line(Outcome.OK if k3s.startswith("-rwxr-xr-x") else Outcome.FAILED, "k3s", k3s or "missing")
    yield Line(Outcome.TOLD, "modules", report.one("modules"))


def _equal(what: str, found: str, expected: str) -> Line:
    if found == expected:
        return Line(Outcome.OK, what, found)
    return Line(Outcome.FAILED, what, f"{found or 'none'} (expected {expected})")


def _positive(what: str, text: str) -> Line:
    return Line(Outcome.OK if text.isdecimal() and int(text) > 0 else Outcome.FAILED, what, text or "none")
