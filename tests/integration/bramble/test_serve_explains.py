"""A whole `bramble serve`: what boards ask for is explained, counted, and found again by serial."""

from __future__ import annotations

from typing import Any

import pytest
from in_namespace import told_by

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    result: dict[str, Any] = told_by("serve_in_namespace.py", tmp_path_factory.mktemp("serve"))
    return result


def test_a_node_with_a_wrong_prefix_is_told_what_to_mend(told: dict[str, Any]) -> None:
    (found,) = [event for event in told["node"]["events"] if event["kind"] == "diagnosis"]
    assert found["detail"]["rule"] == "missing-slash"
    assert "'lab/'" in found["hint"]
    assert "asked for labconfig.txt" in found["detail"]["evidence"][0]["text"]


def test_a_board_outside_of_the_cluster_has_a_timeline(told: dict[str, Any]) -> None:
    assert told["stranger"]["board"]["board"] == "deadbeef"
    texts = [event["text"] for event in told["stranger"]["events"]]
    assert any("asked for config.txt: not found" in text for text in texts)


def test_metrics_have_moved_and_no_name_of_the_network_is_in_them(told: dict[str, Any]) -> None:
    assert 'bramble_tftp_requests_total{outcome="not_found"} 0.0' in told["before"]
    assert 'bramble_tftp_requests_total{outcome="not_found"} 2.0' in told["after"]
    assert 'bramble_diagnoses_total{rule="missing-slash"} 1.0' in told["after"]
    assert 'bramble_nodes{state="netbooting"} 1.0' in told["after"]
    assert "bramble_boards_seen 2.0" in told["after"]
    assert told["resolved"].startswith("10.77.0.")
    assert 'bramble_dns_queries{outcome="answered"} 0.0' in told["before"]
    assert 'bramble_dns_queries{outcome="answered"} 1.0' in told["after"]
    assert "bramble_tftp_malformed 0.0" in told["after"]
    for word in ("deadbeef", "labconfig", "_created"):
        assert word not in told["after"]


def test_the_doctor_finds_the_running_server_well(told: dict[str, Any]) -> None:
    checks = {check["id"]: check for check in told["checks"]}
    assert checks["server"]["status"] == "ok"
    assert "TFTP in" in checks["server"]["text"]
    assert checks["ports"]["status"] == "ok"


def test_the_dashboard_shows_what_the_boot_server_saw(told: dict[str, Any]) -> None:
    seen = told["dashboard"]
    assert (seen["port"], seen["status"]) == (7444, 303)
    assert "boots the installer" in seen["pages"]["/"]
    assert "deadbeef" in seen["pages"]["/"], "the board that is no node's is held"
    node = seen["pages"]["/nodes/one"]
    assert "labconfig.txt" in node
    assert "lab/" in node.partition('class="mend"')[2].partition("</p>")[0]
    assert "debian-trixie" in seen["pages"]["/images"]
