"""The doctor on a real (virtual) network: a switch, another DHCP server, a firewall, a port that is taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from in_namespace import need, told_by

from bramble.doctor.cli import doctor
from bramble.doctor.gather import read_link, read_rights, read_rooms
from pxe.diagnosis.catalogue import RULES

pytestmark = pytest.mark.integration

WAIT_S = 180


def examine(*words: str) -> dict[str, dict[str, Any]]:
    """The doctor's checks in a namespace; the texts of several with one name together."""
    if "firewall" in words:
        need("nft")
    checks: dict[str, dict[str, Any]] = {}
    for check in told_by("doctor_in_namespace.py", *words, timeout_s=WAIT_S):
        earlier = checks.setdefault(check["id"], check)
        if earlier is not check:
            earlier["text"] += f"\n{check['text']}"
    return checks


def test_a_sound_network() -> None:
    checks = examine()
    assert {checks[name]["status"] for name in ("interface", "address", "mtu", "rights", "ports")} == {"ok"}
    assert checks["dhcp-servers"]["status"] == "ok"
    assert checks["spanning-tree"]["status"] == "ok"


def test_everything_that_is_wrong_is_found_at_once() -> None:
    checks = examine("stp", "foreign", "firewall", "tftpd")
    assert checks["dhcp-servers"]["status"] == "fail"
    assert "10.77.0.66" in checks["dhcp-servers"]["evidence"][0]
    assert checks["spanning-tree"]["status"] == "warn"
    assert "runs STP: a port that is no edge port waits 4 s" in checks["spanning-tree"]["text"]
    assert checks["firewall"]["status"] == "fail"
    assert [line.split(" (")[0] for line in checks["firewall"]["evidence"]] == ["udp port 67", "udp port 69"]
    assert checks["ports"]["status"] == "fail"
    assert "DHCP needs udp port 67, and python" in checks["ports"]["text"]
    assert "TFTP needs udp port 69, and python" in checks["ports"]["text"]


@pytest.mark.parametrize(
    ("words", "status"),
    [(("foreign",), "ok"), (("foreign", "stp"), "warn")],
    ids=["at once", "spanning tree"],
)
def test_the_silence_of_a_port_after_link_up_is_measured(words: tuple[str, ...], status: str) -> None:
    """The switch's port waits twice its forward delay of two seconds, or not at all."""
    check = examine(*words, "bounce")["link-delay"]
    assert check["status"] == status, check
    assert "the first packet came" in check["text"]


def test_an_interface_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(doctor, ["--interface", "nowhere0", "--listen", "0", "--json"])
    assert result.exit_code == 1
    (check,) = json.loads(result.output)
    assert check["id"] == "interface"
    assert "nowhere0" in check["text"]


def test_the_list_of_rules() -> None:
    result = CliRunner().invoke(doctor, ["--rules", "--json"])
    assert [rule["rule"] for rule in json.loads(result.output)] == [rule.id for rule in RULES]


def test_an_interface_that_sys_does_not_show_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the lab's shell: its network namespace is its own, /sys that of the machine."""
    shown = read_link("lo")
    monkeypatch.setattr("bramble.doctor.gather.SYS", tmp_path)
    link = read_link("lo")
    assert (link.exists, link.is_up, link.has_carrier, link.mtu) == (True, True, True, shown.mtu)
    assert link.mtu == int(Path("/sys/class/net/lo/mtu").read_text())


def test_this_machine_can_be_read() -> None:
    assert read_link("lo").exists
    assert read_rights().lowest_port >= 0
    (room,) = read_rooms((Path("/"), Path("/not/there/yet")))
    assert room.total_bytes >= room.free_bytes > 0
