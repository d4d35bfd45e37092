"""Everything that TFTP and plain HTTP serve, in every state of a node, holds no secret."""

from __future__ import annotations

from typing import Any

import pytest
from in_namespace import told_by

from fleet.lifecycle import State

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("secrets")
    result: dict[str, Any] = told_by("secrets_in_namespace.py", directory, timeout_s=300.0)
    return result


def test_no_secret_is_in_anything_that_is_served(told: dict[str, Any]) -> None:
    assert told["leaks"] == []


def test_every_kind_of_secret_was_looked_for(told: dict[str, Any]) -> None:
    known = "\n".join(told["secrets"])
    for kind in (
        "control-ca.key",
        "control.key",
        "ticket.key",
        "k3s/",
        "node password of pi5-1",
        "ticket of pi5-1",
        "ticket of pi4-1",
        "token of pi5-1",
        "token of pi4-1",
        "session key",
        "token in /",
    ):
        assert kind in known, kind


def test_every_state_was_looked_at_and_files_were_served_where_an_install_is_open(
    told: dict[str, Any],
) -> None:
    fetched = told["fetched"]
    for state in State:
        assert {f"{state.value}, intent open", f"{state.value}, intent closed"} <= fetched.keys()
    assert sum(fetched.values()) > 500
    assert fetched["declared"] > 50
    assert fetched["server is being installed"] > 50
    # An installed node is served nothing but the metrics page, which this machine may read.
    assert fetched["ready, intent closed"] <= 2 < fetched["netbooting, intent open"]


def test_the_search_finds_a_secret_that_is_there(told: dict[str, Any]) -> None:
    found = "\n".join(told["planted"])
    assert "user-data: ticket of pi5-1 (hex)" in found
    assert "kernel8.img: ticket of pi5-1 (plain)" in found
    assert "tftp" in found
    assert "http" in found
