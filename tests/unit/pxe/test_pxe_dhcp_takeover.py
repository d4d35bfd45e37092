"""A node's own address while another machine's lease of it runs: given over once that machine is gone, and
never to two that live."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from fakes_dhcp import FIRST, LEASE_S, NODE, NOW, RESERVED, SERVER, Network
from fakes_pxe import PI4_MAC, client_message, pi_discover

from fleet.boards import MacAddress
from fleet.spec.model import AddressPool
from pxe.boot.table import BootTable, NodeBootState
from pxe.dhcp.leases import DECLINED_HELD_S, LeaseState
from pxe.dhcp.replies import Report
from pxe.dhcp.takeover import ANSWER_S, HEARD_COUNTS_S
from pxe.dhcp.wire import MessageType
from pxe.events import AddressConflict, BoardEvent, NoAddressLeft

OLD = MacAddress.parse("52:54:00:12:34:56")
NEW = MacAddress.parse("52:54:00:12:34:57")
OTHER = MacAddress.parse("52:54:00:12:34:58")
RELAY = IPv4Address("10.0.0.7")


class Replacing(Network):
    """Three boards say one serial, that of a node without a declared MAC; `OLD` has its address."""

    def __init__(self, pool: AddressPool | None = None) -> None:
        super().__init__(NODE, pool=pool)
        assert self.take(OLD) == RESERVED

    def discover(self, mac: MacAddress, now: float = NOW) -> IPv4Address | None:
        """What a board is offered."""
        reply = self.hear(pi_discover(mac=mac), now)
        return reply.message.yiaddr if reply is not None else None

    def request(self, mac: MacAddress, now: float = NOW) -> MessageType:
        """The answer to a board that takes the node's address."""
        message = client_message(MessageType.REQUEST, mac=mac, requested=RESERVED, server=SERVER)
        return self.must_answer(message, now).message.message_type

    def renew(self, mac: MacAddress, now: float = NOW) -> MessageType:
        message = client_message(MessageType.REQUEST, mac=mac, ciaddr=RESERVED)
        return self.must_answer(message, now).message.message_type

    def take(self, mac: MacAddress, now: float = NOW) -> IPv4Address | None:
        offered = self.discover(mac, now)
        assert offered != RESERVED or self.request(mac, now) is MessageType.ACK
        return offered

    def answers(self, holder: MacAddress, now: float = NOW) -> list[BoardEvent]:
        """A machine says by ARP that it has the node's address."""
        actions = self.responder.conflict(RESERVED, holder, now)
        return [action.event for action in actions if isinstance(action, Report)]

    @property
    def holder(self) -> MacAddress | None:
        lease = self.leases.at(RESERVED)
        return lease.mac if lease is not None and lease.state is LeaseState.BOUND else None


@pytest.fixture
def boards() -> Replacing:
    return Replacing()


def offered_to_the_new(boards: Replacing) -> float:
    """When the new board was offered the address, that of a board that was silent."""
    assert boards.discover(NEW) is None
    assert boards.discover(NEW, NOW + ANSWER_S) == RESERVED
    return NOW + ANSWER_S


def test_a_new_board_gets_its_nodes_address_where_the_old_one_is_silent(boards: Replacing) -> None:
    boards.table = BootTable((NodeBootState(name="one", mac=NEW, address=RESERVED),))
    assert boards.discover(NEW) is None
    assert boards.probed == [RESERVED]
    assert boards.discover(NEW, NOW + ANSWER_S / 2) is None
    assert boards.take(NEW, NOW + ANSWER_S) == RESERVED
    assert boards.holder == NEW
    assert boards.renew(OLD, NOW + 9) is MessageType.NAK


def test_an_old_board_that_answers_late_keeps_the_address_from_the_new_one(boards: Replacing) -> None:
    now = offered_to_the_new(boards)
    assert [type(event) for event in boards.answers(OLD, now)] == [AddressConflict]
    assert boards.request(NEW, now) is MessageType.NAK
    assert boards.discover(NEW, now + HEARD_COUNTS_S / 2) is None
    assert boards.probed == [], "it is not asked again yet"
    assert boards.discover(NEW, now + HEARD_COUNTS_S) is None
    assert boards.probed == [RESERVED]


def test_nobody_takes_the_address_of_the_board_that_is_declared_by_its_mac() -> None:
    network = Network(NodeBootState(name="one", mac=OLD, serial=NODE.serial, address=RESERVED), pool=None)
    assert network.dora(OLD) == RESERVED
    for second in range(5):
        assert network.hear(pi_discover(), NOW + second) is None
        assert network.probed == []
    assert isinstance(network.events[-1], NoAddressLeft)
    assert f"{OLD} has its address {RESERVED}" in network.events[-1].describe()


def test_a_reservation_that_a_stranger_holds_is_not_given_twice() -> None:
    network = Network()
    address = network.dora(OLD)
    network.table = BootTable((NodeBootState(name="one", mac=NEW, address=address),))
    message = client_message(MessageType.DISCOVER, mac=NEW)
    assert network.hear(message) is None
    assert network.probed == [address]
    reports = network.responder.conflict(address, OLD, NOW + 0.1)
    assert [type(action.event) for action in reports if isinstance(action, Report)] == [AddressConflict]
    assert network.must_answer(message, NOW + 5).message.yiaddr != address
    renewal = client_message(MessageType.REQUEST, mac=OLD, requested=address, server=SERVER)
    assert network.must_answer(renewal, NOW + 6).message.message_type is MessageType.NAK, "it is the node's"
    assert network.must_answer(message, NOW + LEASE_S + 1).message.yiaddr == address


def test_an_old_board_that_renews_ends_the_offer_to_the_new_one(boards: Replacing) -> None:
    now = offered_to_the_new(boards)
    assert boards.renew(OLD, now) is MessageType.ACK
    assert boards.request(NEW, now) is MessageType.NAK
    assert boards.discover(NEW, now + 1) is None
    assert boards.probed == [RESERVED], "what the cable said before says nothing now"
    assert boards.holder == OLD


def test_an_old_board_that_declines_ends_the_offer_to_the_new_one(boards: Replacing) -> None:
    """It has seen a third machine at the address."""
    now = offered_to_the_new(boards)
    boards.hear(client_message(MessageType.DECLINE, mac=OLD, requested=RESERVED, server=SERVER), now)
    assert boards.request(NEW, now) is MessageType.NAK
    assert boards.discover(NEW, now + 1) is None
    assert "rests until" in boards.events[-1].describe()
    assert boards.discover(NEW, now + DECLINED_HELD_S) == RESERVED


def test_an_old_board_that_releases_leaves_the_address_to_the_new_one(boards: Replacing) -> None:
    now = offered_to_the_new(boards)
    boards.hear(client_message(MessageType.RELEASE, mac=OLD, ciaddr=RESERVED, server=SERVER), now)
    assert boards.request(NEW, now) is MessageType.ACK
    boards.hear(client_message(MessageType.RELEASE, mac=OLD, ciaddr=RESERVED, server=SERVER), now)
    assert boards.holder == NEW


def test_a_new_board_that_declines_leaves_the_address_to_nobody_for_a_while(boards: Replacing) -> None:
    now = offered_to_the_new(boards)
    assert boards.request(NEW, now) is MessageType.ACK
    boards.hear(client_message(MessageType.DECLINE, mac=NEW, requested=RESERVED, server=SERVER), now)
    for mac in (OLD, NEW, OTHER):
        assert boards.discover(mac, now + DECLINED_HELD_S - 1) is None


def test_the_silence_of_one_machine_says_nothing_about_the_next(boards: Replacing) -> None:
    now = offered_to_the_new(boards)
    boards.hear(client_message(MessageType.RELEASE, mac=OLD, ciaddr=RESERVED, server=SERVER), now)
    boards.leases.drop_offer(NEW)
    assert boards.take(OTHER, now) == RESERVED
    assert boards.discover(NEW, now + 1) is None
    assert boards.probed == [RESERVED]
    assert boards.holder == OTHER


def test_two_boards_that_ask_by_turns_do_not_keep_each_other_waiting(boards: Replacing) -> None:
    assert boards.discover(NEW) is None
    assert boards.discover(OTHER, NOW + 0.5) is None
    assert boards.probed == [], "the same silence answers both"
    assert boards.discover(NEW, NOW + 4) == RESERVED


def test_an_answer_ends_the_offer_whoever_asked_last(boards: Replacing) -> None:
    now = offered_to_the_new(boards)
    boards.answers(OLD, now)
    assert boards.discover(OTHER, now) is None
    assert boards.request(NEW, now) is MessageType.NAK


def test_a_third_machine_at_the_address_keeps_it_from_the_new_board_and_leaves_the_lease(
    boards: Replacing,
) -> None:
    now = offered_to_the_new(boards)
    assert [type(event) for event in boards.answers(MacAddress.parse("02:00:00:00:99:99"), now)] == [
        AddressConflict
    ]
    assert boards.request(NEW, now) is MessageType.NAK
    assert boards.holder == OLD


def test_an_answer_is_heard_whatever_else_was_asked_meanwhile(boards: Replacing) -> None:
    boards.discover(NEW)
    for number in range(3000):
        mac = MacAddress(b"\x02\0" + number.to_bytes(4, "big"))
        boards.hear(client_message(MessageType.DISCOVER, mac=mac))
    boards.answers(OLD)
    assert boards.discover(NEW, NOW + ANSWER_S) is None
    assert "a machine answers for its address" in boards.events[-1].describe()


def test_silence_means_nothing_where_the_cable_was_not_asked(boards: Replacing) -> None:
    boards.discover(NEW)
    boards.responder.not_asked(RESERVED, NOW)
    assert boards.discover(NEW, NOW + 4) is None
    assert boards.probed == [RESERVED]
    assert boards.discover(NEW, NOW + 8) == RESERVED
    boards.responder.not_asked(RESERVED, NOW + 8)
    assert boards.request(NEW, NOW + 8) is MessageType.ACK, "the first question was"


def test_a_client_that_asks_as_seldom_as_it_may_is_answered(boards: Replacing) -> None:
    """64 s and a random second more: RFC 2131 §4.1."""
    assert boards.discover(NEW) is None
    assert boards.discover(NEW, NOW + 65) == RESERVED


def test_a_clock_that_is_set_back_has_the_cable_asked_again(boards: Replacing) -> None:
    boards.discover(NEW)
    assert boards.discover(NEW, NOW - 1000) is None
    assert boards.probed == [RESERVED]


def test_a_relay_hides_who_lives_so_the_lease_has_to_end(boards: Replacing) -> None:
    message = pi_discover(mac=NEW, giaddr=RELAY)
    for second in (0, 4, 8):
        assert boards.hear(message, NOW + second) is None
        assert boards.probed == []
    assert "can not be asked through a relay" in boards.events[-1].describe()
    assert boards.must_answer(message, NOW + LEASE_S).message.yiaddr == RESERVED


def test_a_server_that_was_killed_between_offer_and_request_asks_again(boards: Replacing) -> None:
    offered_to_the_new(boards)
    boards.restart()
    assert boards.request(NEW, NOW + 2) is MessageType.NAK
    assert boards.discover(NEW, NOW + 3) is None
    assert boards.probed == [RESERVED]
    assert boards.take(NEW, NOW + 4) == RESERVED
    boards.restart()
    assert boards.renew(OLD, NOW + 5) is MessageType.NAK
    assert boards.holder == NEW


def test_a_board_that_was_not_given_its_address_gets_one_of_the_pool() -> None:
    boards = Replacing(AddressPool(FIRST, FIRST))
    boards.discover(NEW)
    boards.answers(OLD)
    assert boards.discover(NEW, NOW + 4) == FIRST
    assert boards.hear(client_message(MessageType.DISCOVER, mac=OTHER), NOW + 4) is None, "it is used up"


def test_a_stranger_is_never_offered_what_a_node_was_offered() -> None:
    """The node's address lies in the pool, and nothing else of it is left."""
    node = NodeBootState(name="one", serial=NODE.serial, address=FIRST)
    network = Network(node, pool=AddressPool(FIRST, FIRST))
    assert network.must_answer(pi_discover()).message.yiaddr == FIRST
    assert network.hear(client_message(MessageType.DISCOVER, mac=NEW), NOW + 30) is None
    request = client_message(MessageType.REQUEST, mac=PI4_MAC, requested=FIRST, server=SERVER)
    assert network.must_answer(request, NOW + 30).message.message_type is MessageType.ACK
