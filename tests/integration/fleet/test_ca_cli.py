"""`bramble ca`: what is said before a control CA is replaced for good, over a real record and real keys."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import fakes_fleet
import pytest
from fakes_fleet import Clock, Fleet, certificate_serial, node_spec, open_fleet
from fleet_story import enrol, install, renew
from typed_cluster import HEAD, node_line, state_of, typed, write_cluster

from fleet.cli.ca import ca
from fleet.cli.places import STORE_VARIABLE
from fleet.cli.questions import DeclinedError
from fleet.spec import load_cluster
from fleet.spec.model import NodeSpec, Role
from fleet.store_place import PostgresPlace
from fleet.trust.pki import CA_CERTIFICATE, PREVIOUS_CERTIFICATE, open_pki
from fleet.trust.pki_rotation import RotationError

pytestmark = pytest.mark.integration

ONE, OTHER = node_spec("pi5-1", 1, role=Role.SERVER), node_spec("pi5-2", 2)
CLUSTER = HEAD + node_line("pi5-1", 1, role="server") + node_line("pi5-2", 2)
DAY_S = 86400.0


@pytest.fixture
def file(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = write_cluster(tmp_path, CLUSTER, monkeypatch)
    if isinstance(place := fakes_fleet.store_place(state_of(file)), PostgresPlace):
        monkeypatch.setenv(STORE_VARIABLE, place.url)
    return file


@pytest.fixture
def fleet(file: Path) -> Iterator[Fleet]:
    """Two nodes that got their certificates yesterday."""
    fleet = open_fleet(state_of(file), load_cluster(file), Clock(time.time() - DAY_S))
    try:
        start(fleet, file)
        for node in (ONE, OTHER):
            install(fleet, node)
            enrol(fleet, node)
        yield fleet
    finally:
        fleet.store.close()


def start(fleet: Fleet, file: Path) -> None:
    """What a start of the server does with its own certificate."""
    pki = open_pki(state_of(file), "attic", fleet.clock())
    pki.ensure_server_certificate([IPv4Address("10.77.0.1")], ["control.attic.internal"], fleet.clock())


def get_certificate(fleet: Fleet, node: NodeSpec, *, is_used: bool = True) -> None:
    """The node renews."""
    with fleet.store.read() as reader:
        held = reader.require_node(node.name).certificate
    assert held is not None
    verdict = renew(fleet, node, held)
    assert verdict.certificate_pem is not None
    with fleet.store.write() as tx:
        known = tx.require_node(node.name)
        assert known.certificate == certificate_serial(verdict.certificate_pem)
        if is_used:
            tx.update_node(known, previous_certificate=None)


def test_who_has_which_ca_is_said_before_each_step(
    file: Path, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = state_of(file)
    monkeypatch.setattr("fleet.cli.questions.is_terminal", lambda: True)
    for step, why in (
        ("switch", "there is no next control CA"),
        ("retire", "no older control CA is accepted"),
    ):
        refused = typed(ca, step, file)
        assert isinstance(refused.exception, RotationError)
        assert why in str(refused.exception)
        assert refused.stderr == "", "there is nothing to ask"
    assert "is made" in typed(ca, "prepare", file).output
    early = typed(ca, "switch", file)
    assert "not every node has heard" in str(early.exception)
    assert early.stderr == ""

    fleet.clock.now = time.time() + 60
    get_certificate(fleet, ONE)
    get_certificate(fleet, OTHER, is_used=False)  # its answer got lost
    before = (state / CA_CERTIFICATE).read_bytes()
    declined = typed(ca, "switch", file, "--force", answer="n\n")
    assert isinstance(declined.exception, DeclinedError)
    assert "1 of 2 nodes have the next control CA, which was announced at 20" in declined.stderr
    assert "pi5-2 will trust nobody here, and will have to be installed again." in declined.stderr
    assert (state / CA_CERTIFICATE).read_bytes() == before
    assert "is in force" in typed(ca, "switch", file, "--force", answer="y\n").output
    assert (state / CA_CERTIFICATE).read_bytes() != before

    not_started = typed(ca, "retire", file, answer="n\n")
    assert "'bramble serve' was not started since the switch. 0 of 2 nodes have" in not_started.stderr
    fleet.clock.advance(60)
    start(fleet, file)
    fleet.clock.advance(60)
    get_certificate(fleet, ONE)
    some = typed(ca, "retire", file, answer="n\n")
    assert "1 of 2 nodes have the present control CA and a certificate of it. pi5-2 will be" in some.stderr
    assert (state / PREVIOUS_CERTIFICATE).exists()
    get_certificate(fleet, OTHER)
    all_of_them = typed(ca, "retire", file, answer="y\n")
    assert "2 of 2 nodes have the present" in all_of_them.stderr
    assert "installed again" not in all_of_them.stderr
    assert not (state / PREVIOUS_CERTIFICATE).exists()


def test_a_script_says_yes_and_nobody_else_is_taken_to(file: Path, fleet: Fleet) -> None:
    state = state_of(file)
    assert typed(ca, "prepare", file).exit_code == 0
    asked = typed(ca, "switch", file, "--force")
    assert asked.exit_code == 2
    assert "There is no terminal to ask on. Say --yes if it is meant." in asked.stderr
    assert not (state / PREVIOUS_CERTIFICATE).exists()
    fleet.store.close()
    assert "is in force" in typed(ca, "switch", file, "--force", "--yes").output
    assert typed(ca, "retire", file).exit_code == 2
    assert (state / PREVIOUS_CERTIFICATE).exists()
    assert "worth nothing" in typed(ca, "retire", file, "--yes").output
