"""A card that was written for a node starts in a board that cluster.yaml does not know."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from fakes_fleet import AgentKey, Fleet, cluster_spec, node_spec, open_fleet
from fleet_story import prove_ticket

from agent.protocol import Outcome, Verdict
from fleet.spec.model import NodeSpec, Role

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("backend")]

SERVER = node_spec("s1", 1, role=Role.SERVER)
NODE = node_spec("a1", 2)
STRANGER = node_spec("a1", 2, serial="10000000ffff0099")
"""The same node, on the board that has the card."""


class NamedKey(AgentKey):
    """With a request as the real agent makes it: for its node's name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
        request = (
            x509.CertificateSigningRequestBuilder().subject_name(subject).sign(self.key, hashes.SHA256())
        )
        self.csr_pem = request.public_bytes(serialization.Encoding.PEM).decode()


def written_card(fleet: Fleet) -> str:
    given = fleet.controller.handouts.begin("a1")
    fleet.controller.handouts.finish("a1", given.intent, image_id="i", medium="/dev/sdb")
    return given.ticket.reveal()


def ask(fleet: Fleet, board: NodeSpec, ticket: str, key: AgentKey) -> Verdict:
    return prove_ticket(fleet, board, key, ticket)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return open_fleet(tmp_path, cluster_spec(SERVER, NODE))


def test_it_waits_names_the_node_and_is_let_in_by_the_same_ticket_once_it_is_declared(fleet: Fleet) -> None:
    ticket, key = written_card(fleet), NamedKey("a1")
    waits = ask(fleet, STRANGER, ticket, key)
    assert (waits.outcome, waits.node, waits.certificate_pem) == (Outcome.PENDING, None, None)
    assert "the unused ticket of a1" in waits.reason
    assert "10000000ffff0099" in waits.reason
    with fleet.store.read() as reader:
        (board,) = reader.held_boards()
        assert any("ticket of a1" in one.text for one in reader.timeline(board=board.id))
        assert [one.used_at for one in reader.tickets("a1")] == [None]
    fleet.controller.declare(cluster_spec(SERVER, STRANGER))
    assert ask(fleet, STRANGER, ticket, key).outcome is Outcome.ENROLLED
    fleet.store.close()


@pytest.mark.parametrize("name", ["", "nobody", "s1"], ids=["unnamed", "unknown", "another node"])
def test_a_request_that_names_no_holder_of_the_ticket_learns_nothing(fleet: Fleet, name: str) -> None:
    waits = ask(fleet, STRANGER, written_card(fleet), NamedKey(name))
    assert waits.outcome is Outcome.PENDING
    assert waits.reason == "this board is not in cluster.yaml"
    fleet.store.close()


def test_neither_does_one_with_a_wrong_a_used_or_a_replaced_ticket(fleet: Fleet) -> None:
    plain = "this board is not in cluster.yaml"
    old, key = written_card(fleet), NamedKey("a1")
    assert ask(fleet, STRANGER, "0" * 64, key).reason == plain
    fleet.clock.advance(10)
    new = written_card(fleet)
    assert ask(fleet, STRANGER, old, key).reason == plain
    assert ask(fleet, NODE, new, NamedKey("a1")).outcome is Outcome.ENROLLED
    assert ask(fleet, STRANGER, new, key).reason == plain
    fleet.store.close()


def test_another_nodes_board_is_turned_away_with_it(fleet: Fleet) -> None:
    ticket = written_card(fleet)
    verdict = ask(fleet, SERVER, ticket, NamedKey("a1"))
    assert verdict.outcome is Outcome.REJECTED  # it is s1, and the ticket is none of s1's
    fleet.store.close()
