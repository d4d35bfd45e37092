"""Who wants to use the address pool up, spoil the lease file or take the server for a fool."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from fakes_dhcp import NOW, SERVER, SETTINGS, Network
from fakes_pxe import client_message, pi_discover

from fleet.boards import MacAddress
from fleet.spec.model import AddressPool
from pxe.dhcp.core import CLAIMS_BELIEVED
from pxe.dhcp.leases import OFFER_PROTECTED_S, Lease, LeaseState, plausible_leases
from pxe.dhcp.replies import Action, Probe, Report, SendReply
from pxe.dhcp.wire import MessageType, Option
from pxe.events import AddressConflict, AddressDeclined, NoAddressLeft
from pxe.net.lease_store import LeaseStore, encode_lease

SUBNET = IPv4Network("10.0.0.0/24")
POOL = AddressPool(IPv4Address("10.0.0.100"), IPv4Address("10.0.0.119"))
HOLDER = MacAddress.parse("02:00:00:00:99:99")


def mac(number: int) -> MacAddress:
    return MacAddress(b"\x02\0" + number.to_bytes(4, "big"))


class Server(Network):
    def __init__(self) -> None:
        super().__init__(pool=POOL, settings=replace(SETTINGS, lease_s=7200, short_lease_s=600))
        self.now = NOW

    def discover(self, client: MacAddress) -> list[Action]:
        return self.responder.respond(client_message(MessageType.DISCOVER, mac=client), self.now)

    def offered(self, client: MacAddress) -> IPv4Address | None:
        return next((a.message.yiaddr for a in self.discover(client) if isinstance(a, SendReply)), None)

    def take(self, client: MacAddress) -> SendReply | None:
        address = self.offered(client)
        if address is None:
            return None
        request = client_message(MessageType.REQUEST, mac=client, requested=address, server=SERVER)
        return next(a for a in self.responder.respond(request, self.now) if isinstance(a, SendReply))


def lease_seconds(reply: SendReply | None) -> int:
    assert reply is not None
    return int.from_bytes(reply.message.option(Option.LEASE_TIME) or b"", "big")


def test_a_flood_of_discovers_holds_no_address_for_long() -> None:
    server = Server()
    for number in range(1000):
        server.offered(mac(number))
    assert server.offered(mac(5000)) is None
    server.now += OFFER_PROTECTED_S
    assert server.take(mac(5000)) is not None
    assert len(server.leases) == 1


def test_a_board_gets_an_address_in_the_middle_of_the_flood() -> None:
    server = Server()
    for number in range(1000):
        server.offered(mac(number))
    reply = next(a for a in server.responder.respond(pi_discover(), server.now) if isinstance(a, SendReply))
    assert reply.message.yiaddr in POOL
    request = client_message(MessageType.REQUEST, requested=reply.message.yiaddr, server=SERVER)
    kinds = [
        a.message.message_type
        for a in server.responder.respond(request, server.now)
        if isinstance(a, SendReply)
    ]
    assert kinds == [MessageType.ACK]


def test_strangers_get_short_leases_while_the_pool_is_scarce() -> None:
    server = Server()
    times = [lease_seconds(server.take(mac(number))) for number in range(len(POOL))]
    assert times[0] == 7200
    assert times[-1] == 600
    assert server.take(mac(777)) is None
    server.now += 600
    assert server.take(mac(777)) is not None


def test_a_starved_pool_is_told() -> None:
    server = Server()
    for number in range(len(POOL)):
        server.take(mac(number))
    events = [a.event for a in server.discover(mac(900)) if isinstance(a, Report)]
    assert [type(event) for event in events] == [NoAddressLeft]


def test_a_flood_of_declines_leaves_most_of_the_pool() -> None:
    server = Server()
    declined = 0
    for number in range(200):
        reply = server.take(mac(number))
        assert reply is not None, "the pool was declined away"
        message = client_message(
            MessageType.DECLINE, mac=mac(number), requested=reply.message.yiaddr, server=SERVER
        )
        events = [a.event for a in server.responder.respond(message, server.now) if isinstance(a, Report)]
        declined += any(isinstance(event, AddressDeclined) for event in events)
    assert declined == 200
    resting = [lease for lease in server.leases if lease.state is LeaseState.DECLINED]
    assert len(resting) == len(POOL) // 4


def test_memory_is_bounded_by_the_pool() -> None:
    server = Server()
    for number in range(5000):
        server.now += 3600
        server.take(mac(number))
    assert len(server.leases) <= len(POOL)


def test_an_address_that_answers_is_not_acknowledged() -> None:
    server = Server()
    actions = server.discover(mac(1))
    probes = [a for a in actions if isinstance(a, Probe)]
    address = probes[0].address
    conflict = server.responder.conflict(address, HOLDER, server.now)
    assert [type(a.event) for a in conflict if isinstance(a, Report)] == [AddressConflict]
    request = client_message(MessageType.REQUEST, mac=mac(1), requested=address, server=SERVER)
    replies = [a for a in server.responder.respond(request, server.now) if isinstance(a, SendReply)]
    assert [a.message.message_type for a in replies] == [MessageType.NAK]
    assert server.offered(mac(1)) not in (address, None)


def test_a_client_that_answers_for_its_own_address_is_no_conflict() -> None:
    server = Server()
    address = server.offered(mac(1))
    assert address is not None
    assert server.responder.conflict(address, mac(1), server.now) == []
    assert server.take(mac(1)) is not None


def test_nobody_is_heard_who_was_not_asked() -> None:
    server = Server()
    assert server.responder.conflict(POOL.first, HOLDER, server.now) == []
    assert server.offered(mac(1)) == POOL.first


def test_an_answer_to_an_old_question_takes_nobodys_lease() -> None:
    """The client that it was asked for went elsewhere, and another one has the address."""
    server = Server()
    address = server.offered(mac(1))
    assert address is not None
    foreign = client_message(
        MessageType.REQUEST, mac=mac(1), requested=address, server=IPv4Address("10.0.0.2")
    )
    server.hear(foreign, NOW)
    wanted = client_message(MessageType.REQUEST, mac=mac(2), requested=address)
    server.leases.bind(mac(2), address, NOW + 600)
    assert server.responder.conflict(address, HOLDER, NOW) == []
    assert server.must_answer(wanted, NOW).message.message_type is MessageType.ACK


def test_a_router_with_proxy_arp_does_not_empty_the_pool() -> None:
    server = Server()
    conflicts = 0
    for number in range(50):
        address = server.offered(mac(number))
        if address is not None:
            conflicts += bool(server.responder.conflict(address, HOLDER, server.now))
    assert conflicts == CLAIMS_BELIEVED - 1
    assert server.take(mac(60)) is None  # offers are out; none of them was set aside
    server.now += OFFER_PROTECTED_S
    assert server.take(mac(60)) is not None


def test_a_client_that_renews_is_not_probed() -> None:
    server = Server()
    server.take(mac(1))
    assert not any(isinstance(action, Probe) for action in server.discover(mac(1)))


def lease(address: str, number: int = 1, expires: float = NOW) -> Lease:
    return Lease(address=IPv4Address(address), mac=mac(number), state=LeaseState.BOUND, expires=expires)


def test_a_poisoned_file_gives_nothing_away() -> None:
    stored = [
        lease("192.0.2.1", 1),
        lease("10.0.0.0", 2),
        lease("10.0.0.255", 3),
        lease("10.0.0.1", 4),
        lease("10.0.0.100", 5, expires=NOW + 1e12),
        lease("10.0.0.30", 6),
    ]
    kept = plausible_leases(stored, SUBNET, [SERVER], NOW + 7200)
    assert [(str(item.address), item.expires) for item in kept] == [
        ("10.0.0.100", NOW + 7200),
        ("10.0.0.30", NOW),
    ]


@pytest.mark.parametrize(
    "line",
    [
        b'{"v":1,"address":167772260,"mac":"02:00:00:00:00:01","state":"bound","expires":1.0}',
        b'{"v":1,"address":"10.0.0.100","mac":"02:00:00:00:00:01","state":"bound","expires":true}',
        b'{"v":1,"address":"10.0.0.100","mac":"02:00:00:00:00:01","state":"bound","expires":NaN}',
        b'{"v":1,"address":"10.0.0.100","mac":"02:00:00:00:00:01","state":"bound","expires":'
        + b"9" * 400
        + b"}",
        b'{"v":1,"address":"10.0.0.100","mac":"ff:ff:ff:ff:ff:ff","state":"bound","expires":1.0}',
        b'{"v":1,"address":"10.0.0.100","mac":"02:00:00:00:00:01","state":"mine","expires":1.0}',
        b'{"v":1,"address":"10.0.0.100","mac":["02"],"state":"bound","expires":1.0}',
        b'{"a":' * 5000,
        b"x" * 3_000_000,
        b"\0" * 100,
    ],
    ids=["number", "true", "nan", "huge", "group", "state", "list", "deep", "long", "zeros"],
)
def test_no_line_keeps_the_server_from_starting(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "leases.jsonl"
    good = lease("10.0.0.101")
    path.write_bytes(line + b"\n" + encode_lease(good))
    with LeaseStore(path) as store:
        assert (store.leases, store.corrupt_lines) == ([good], 1)


def test_what_is_appended_while_the_file_is_written_anew_is_in_both(tmp_path: Path) -> None:
    path = tmp_path / "leases.jsonl"
    many = [lease(f"10.0.{number // 200}.{number % 200}", number) for number in range(1000)]
    late = lease("10.0.9.9", 5000)
    with LeaseStore(path) as store:
        store.append(many)
        for step, _slice in enumerate(store.rewrite(many)):
            store.append([lease("10.0.9.9", 5000 + step), late])
            with_old = path.read_bytes()
            assert with_old.endswith(encode_lease(late))
    with LeaseStore(path) as again:
        assert again.leases[-1] == late
        assert len(again.leases) == 1001


def test_an_unfinished_new_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "leases.jsonl"
    many = [lease(f"10.0.{number // 200}.{number % 200}", number) for number in range(1000)]
    with LeaseStore(path) as store:
        store.append(many)
        writing = store.rewrite(many)
        next(writing)
    with LeaseStore(path) as again:
        assert again.leases == many


def test_what_is_appended_before_the_first_slice_is_in_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "leases.jsonl"
    with LeaseStore(path) as store:
        writing = store.rewrite([])
        store.append([lease("10.0.0.7")])
        for _slice in writing:
            pass
    with LeaseStore(path) as again:
        assert again.leases == [lease("10.0.0.7")]
