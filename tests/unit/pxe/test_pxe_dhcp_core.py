"""The full DHCP server: every state of RFC 2131 table 4, and where each reply goes."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from fakes_dhcp import FIRST, LAST, NODE, NOW, RESERVED, SERVER, SETTINGS, Network
from fakes_pxe import PI4_MAC, PI_CLASS, client_message, pi_discover, pi_guid

from fleet.boards import MacAddress
from pxe.boot.clients import Learn
from pxe.boot.table import BootTable, NodeBootState
from pxe.dhcp.proxy import ProxyResponder
from pxe.dhcp.replies import SendReply
from pxe.dhcp.vendor import PI_BOOT_OPTION_43
from pxe.dhcp.wire import MessageType, Option
from pxe.events import (
    DhcpAck,
    DhcpNak,
    DhcpOffer,
    ForeignServerChosen,
    NoAddressLeft,
)

BROADCAST = IPv4Address("255.255.255.255")
OTHER_SERVER = IPv4Address("10.0.0.254")
COMPUTER = MacAddress.parse("52:54:00:12:34:56")
THIRD = MacAddress.parse("52:54:00:12:34:57")


@pytest.fixture
def network() -> Network:
    return Network(NODE)


def test_a_bootloader_is_offered_its_address_and_its_boot_server(network: Network) -> None:
    reply = network.must_answer(pi_discover())
    offer = reply.message
    assert (offer.message_type, offer.yiaddr, offer.siaddr) == (MessageType.OFFER, RESERVED, SERVER)
    assert offer.server_id == SERVER
    assert offer.vendor_class == b"PXEClient"
    assert offer.option(Option.VENDOR_SPECIFIC) == PI_BOOT_OPTION_43
    assert offer.option(Option.TFTP_SERVER) == b"10.0.0.1"
    assert offer.option(Option.CLIENT_GUID) == pi_guid()
    assert offer.option(Option.SUBNET_MASK) == bytes((255, 255, 255, 0))
    assert offer.option(Option.LEASE_TIME) == (3600).to_bytes(4, "big")
    assert offer.xid == 0x01020304


def test_the_request_of_a_bootloader_is_known_by_its_discover(network: Network) -> None:
    network.hear(pi_discover())
    reply = network.must_answer(
        client_message(MessageType.REQUEST, requested=RESERVED, server=SERVER, vendor_class=b"")
    )
    assert reply.message.message_type is MessageType.ACK
    assert reply.message.option(Option.VENDOR_SPECIFIC) == PI_BOOT_OPTION_43
    assert reply.message.option(Option.TFTP_SERVER) == b"10.0.0.1"
    learned = [action for action in network.actions if isinstance(action, Learn)]
    assert [(item.address, item.board.serial_prefix) for item in learned] == [(RESERVED, "91cdf03d")]
    assert network.actions.index(learned[0]) < network.actions.index(reply)
    assert isinstance(network.events[0], DhcpAck)
    assert network.events[0].boots


def test_the_operating_system_of_the_same_board_gets_the_same_address_and_no_boot_server(
    network: Network,
) -> None:
    network.hear(pi_discover())
    network.hear(client_message(MessageType.REQUEST, requested=RESERVED, server=SERVER))
    offer = network.must_answer(
        client_message(MessageType.DISCOVER, xid=99, extra=((Option.CLIENT_ID, b"\xff" + bytes(254)),))
    ).message
    assert (offer.yiaddr, offer.siaddr) == (RESERVED, IPv4Address(0))
    assert offer.option(Option.VENDOR_SPECIFIC) is None
    assert offer.option(Option.TFTP_SERVER) is None
    assert offer.option(Option.ROUTER) == IPv4Address("10.0.0.254").packed
    assert offer.option(Option.DNS_SERVERS) == SERVER.packed
    assert offer.option(Option.DOMAIN_NAME) == b"attic.internal"


def test_two_boards_with_one_transaction_id_are_two_boards() -> None:
    network = Network(NODE)
    network.hear(pi_discover())
    offer = network.must_answer(client_message(MessageType.DISCOVER, mac=COMPUTER)).message
    assert offer.yiaddr == FIRST
    assert offer.option(Option.VENDOR_SPECIFIC) is None


def test_an_unknown_pi_gets_an_address_of_the_pool_and_the_reason_is_told() -> None:
    network = Network()
    assert network.must_answer(pi_discover()).message.yiaddr == FIRST
    offer = network.events[-1]
    assert isinstance(offer, DhcpOffer)
    assert "held" in offer.describe()


def test_a_client_without_an_address_is_answered_at_its_hardware_address(network: Network) -> None:
    reply = network.must_answer(pi_discover(flags=0))
    assert (reply.address, reply.port, reply.hardware) == (RESERVED, 68, PI4_MAC.octets)


def test_a_client_that_asks_for_a_broadcast_gets_one(network: Network) -> None:
    reply = network.must_answer(pi_discover(flags=0x8000))
    assert (reply.address, reply.port, reply.hardware) == (BROADCAST, 68, None)


def test_a_relay_gets_the_reply_with_its_own_option(network: Network) -> None:
    relay = IPv4Address("10.0.0.7")
    message = client_message(MessageType.DISCOVER, giaddr=relay, extra=((Option.RELAY_AGENT, b"\x01\x02ab"),))
    reply = network.must_answer(message)
    assert (reply.address, reply.port) == (relay, 67)
    assert reply.message.giaddr == relay
    assert reply.message.options[-1] == (Option.RELAY_AGENT, b"\x01\x02ab")


def test_a_relay_of_another_network_is_not_served(network: Network) -> None:
    assert network.hear(client_message(MessageType.DISCOVER, giaddr=IPv4Address("192.0.2.1"))) is None


def test_a_renewing_client_is_answered_at_its_address(network: Network) -> None:
    address = network.dora(COMPUTER)
    reply = network.must_answer(
        client_message(MessageType.REQUEST, mac=COMPUTER, ciaddr=address, xid=5), NOW + 1800
    )
    assert (reply.message.message_type, reply.message.yiaddr) == (MessageType.ACK, address)
    assert (reply.address, reply.port) == (address, 68)
    lease = network.leases.find(COMPUTER)
    assert lease is not None
    assert lease.expires == NOW + 1800 + 3600


def test_a_rebooting_client_keeps_its_address(network: Network) -> None:
    address = network.dora(COMPUTER)
    reply = network.must_answer(client_message(MessageType.REQUEST, mac=COMPUTER, requested=address))
    assert reply.message.message_type is MessageType.ACK


def test_a_rebooting_client_that_nobody_knows_gets_no_answer(network: Network) -> None:
    assert network.hear(client_message(MessageType.REQUEST, mac=COMPUTER, requested=LAST)) is None


@pytest.mark.parametrize(
    "address",
    [IPv4Address("192.0.2.9"), IPv4Address("10.0.0.0"), IPv4Address("10.0.0.255"), RESERVED, SERVER],
    ids=["other network", "the network's own", "broadcast", "reserved", "server"],
)
def test_a_wrong_address_is_refused(network: Network, address: IPv4Address) -> None:
    reply = network.must_answer(client_message(MessageType.REQUEST, mac=COMPUTER, requested=address))
    assert reply.message.message_type is MessageType.NAK
    assert (reply.address, reply.port) == (BROADCAST, 68)
    assert reply.message.yiaddr == IPv4Address(0)
    assert isinstance(network.events[0], DhcpNak)


def test_a_refusal_over_a_relay_asks_it_to_broadcast(network: Network) -> None:
    reply = network.must_answer(
        client_message(
            MessageType.REQUEST,
            mac=COMPUTER,
            requested=IPv4Address("192.0.2.9"),
            giaddr=IPv4Address("10.0.0.7"),
        )
    )
    assert reply.message.broadcast
    assert reply.address == IPv4Address("10.0.0.7")


def test_an_address_that_was_not_offered_is_refused(network: Network) -> None:
    network.hear(client_message(MessageType.DISCOVER, mac=COMPUTER))
    reply = network.must_answer(
        client_message(MessageType.REQUEST, mac=COMPUTER, requested=LAST, server=SERVER)
    )
    assert reply.message.message_type is MessageType.NAK


def test_anothers_address_is_refused(network: Network) -> None:
    address = network.dora(COMPUTER)
    reply = network.must_answer(
        client_message(MessageType.REQUEST, mac=THIRD, requested=address, server=SERVER)
    )
    assert reply.message.message_type is MessageType.NAK


def test_another_servers_offer_taken_is_told_and_frees_ours(network: Network) -> None:
    network.hear(pi_discover())
    assert network.hear(client_message(MessageType.REQUEST, requested=RESERVED, server=OTHER_SERVER)) is None
    assert isinstance(network.events[0], ForeignServerChosen)
    assert str(OTHER_SERVER) in network.events[0].describe()
    assert network.leases.offered(PI4_MAC, NOW) is None


def test_a_declined_address_is_not_offered_again(network: Network) -> None:
    address = network.dora(COMPUTER)
    network.hear(client_message(MessageType.DECLINE, mac=COMPUTER, requested=address, server=SERVER))
    assert network.must_answer(client_message(MessageType.DISCOVER, mac=COMPUTER)).message.yiaddr == LAST


def test_a_released_address_is_free(network: Network) -> None:
    address = network.dora(COMPUTER)
    network.hear(client_message(MessageType.RELEASE, mac=COMPUTER, ciaddr=address, server=SERVER))
    assert network.leases.is_free(address, THIRD, NOW)


def test_nobody_releases_for_others(network: Network) -> None:
    address = network.dora(COMPUTER)
    network.hear(client_message(MessageType.RELEASE, mac=THIRD, ciaddr=address, server=SERVER))
    network.hear(client_message(MessageType.DECLINE, mac=THIRD, requested=address, server=SERVER))
    assert not network.leases.is_free(address, THIRD, NOW)


def test_inform_is_answered_without_a_lease(network: Network) -> None:
    address = IPv4Address("10.0.0.50")
    reply = network.must_answer(client_message(MessageType.INFORM, mac=COMPUTER, ciaddr=address))
    assert (reply.message.message_type, reply.message.yiaddr) == (MessageType.ACK, IPv4Address(0))
    assert reply.message.option(Option.LEASE_TIME) is None
    assert reply.message.option(Option.DNS_SERVERS) == SERVER.packed
    assert (reply.address, reply.port) == (address, 68)
    assert network.leases.drain_changes() == []


def test_a_full_pool_is_told(network: Network) -> None:
    for number in range(2):
        network.dora(MacAddress(bytes((2, 0, 0, 0, 0, number))))
    assert network.hear(client_message(MessageType.DISCOVER, mac=COMPUTER)) is None
    assert isinstance(network.events[-1], NoAddressLeft)


def test_a_new_reservation_reaches_the_board_at_its_next_renewal() -> None:
    network = Network(NodeBootState(name="one", mac=COMPUTER))
    address = network.dora(COMPUTER)
    network.table = BootTable((NodeBootState(name="one", mac=COMPUTER, address=RESERVED),))
    renewal = network.must_answer(client_message(MessageType.REQUEST, mac=COMPUTER, ciaddr=address))
    assert renewal.message.message_type is MessageType.NAK
    assert (renewal.address, renewal.message.ciaddr) == (BROADCAST, IPv4Address(0))
    assert network.dora(COMPUTER) == RESERVED


def test_whoever_gets_what_a_board_had_before_is_not_taken_for_the_board() -> None:
    network = Network()
    first = network.dora(PI4_MAC)
    network.table = BootTable((NodeBootState(name="one", mac=PI4_MAC, address=RESERVED),))
    assert network.dora(PI4_MAC) == RESERVED
    network.dora(THIRD)
    assert network.dora(COMPUTER) == first
    learned = [action for action in network.actions if isinstance(action, Learn)]
    assert [(item.address, item.board.mac) for item in learned] == [(first, COMPUTER)]


@pytest.mark.parametrize("kind", [MessageType.OFFER, MessageType.ACK, MessageType.NAK])
def test_a_servers_words_from_a_client_are_ignored(network: Network, kind: MessageType) -> None:
    assert network.hear(client_message(kind, requested=RESERVED, server=SERVER)) is None


def test_the_proxy_tells_a_bootloader_where_to_boot_and_gives_no_address() -> None:
    responder = ProxyResponder(SETTINGS, lambda: BootTable((NODE,)))
    actions = responder.respond(pi_discover(), NOW)
    replies = [action for action in actions if isinstance(action, SendReply)]
    assert len(replies) == 1
    offer = replies[0].message
    assert (offer.yiaddr, offer.message_type, offer.broadcast) == (
        IPv4Address(0),
        MessageType.OFFER,
        True,
    )
    assert [code for code, _value in offer.options] == [54, 60, 97, 43, 66]
    assert (replies[0].address, replies[0].port) == (BROADCAST, 68)


def test_the_proxy_is_silent_to_all_others_and_notices_the_address() -> None:
    responder = ProxyResponder(SETTINGS, lambda: BootTable((NODE,)))
    assert responder.respond(client_message(MessageType.DISCOVER, mac=COMPUTER), NOW) == []
    assert responder.respond(client_message(MessageType.DISCOVER), NOW) == []
    responder.respond(pi_discover(), NOW)
    actions = responder.respond(
        client_message(MessageType.REQUEST, requested=LAST, server=OTHER_SERVER, vendor_class=PI_CLASS), NOW
    )
    assert not any(isinstance(action, SendReply) for action in actions)
    learned = [action for action in actions if isinstance(action, Learn)]
    assert [(item.address, item.board.serial_prefix) for item in learned] == [(LAST, "91cdf03d")]
