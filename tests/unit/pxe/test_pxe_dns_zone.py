"""The cluster's names, and what is answered to one query."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from dnslib import CLASS, EDNS0, OPCODE, QTYPE, RCODE, DNSRecord
from fakes_spec import changed, check

from fleet.spec.model import ClusterSpec
from pxe.dns.core import NameSettings, Relay, Reply, Rest, Silence, failure, respond
from pxe.dns.settings import make_name_settings
from pxe.dns.wire import parse_query
from pxe.dns.zone import Zone, make_zone, parse_reverse

SERVER = IPv4Address("192.168.86.2")
ROUTER = IPv4Address("192.168.86.1")
CLIENT = IPv4Address("192.168.86.33")
ZONE = Zone(
    domain="attic.internal",
    server=SERVER,
    hosts={
        "control": (SERVER,),
        "ns": (SERVER,),
        "nas": (SERVER,),
        "api": (IPv4Address("192.168.86.20"),),
        "pi5-1": (IPv4Address("192.168.86.33"),),
    },
    subnet=IPv4Network("192.168.86.0/24"),
    owns_reverse=True,
)
SETTINGS = NameSettings(zone=ZONE, rest=Rest.SILENT, upstreams=(), clients=(ZONE.subnet,))
FORWARDING = replace(SETTINGS, rest=Rest.FORWARD, upstreams=(ROUTER,))


def declared(text: str) -> ClusterSpec:
    spec = check(text).spec
    assert spec is not None
    return spec


def ask(name: str, qtype: str = "A", settings: NameSettings = SETTINGS, edns: bool = False) -> DNSRecord:
    question = DNSRecord.question(name, qtype)
    if edns:
        question.add_ar(EDNS0(udp_len=4096))
    answer = respond(parse_query(question.pack()), CLIENT, settings)
    assert isinstance(answer, Reply)
    return DNSRecord.parse(answer.data)


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("pi5-1.attic.internal", "192.168.86.33"),
        ("PI5-1.Attic.Internal", "192.168.86.33"),
        ("pi5-1", "192.168.86.33"),
        ("api.attic.internal", "192.168.86.20"),
        ("control.attic.internal", "192.168.86.2"),
    ],
)
def test_names_of_the_cluster_have_their_addresses(name: str, address: str) -> None:
    reply = ask(name)
    assert (reply.header.rcode, reply.header.aa, reply.header.ra) == (RCODE.NOERROR, 1, 0)
    assert [str(record.rdata) for record in reply.rr] == [address]
    assert str(reply.rr[0].rname) == f"{name}."


def test_name_of_another_type_exists_without_records() -> None:
    reply = ask("pi5-1.attic.internal", "AAAA")
    assert (reply.header.rcode, reply.rr) == (RCODE.NOERROR, [])
    assert reply.auth[0].rtype == QTYPE.SOA


def test_unknown_name_of_the_zone_does_not_exist() -> None:
    reply = ask("pi6-1.attic.internal")
    assert reply.header.rcode == RCODE.NXDOMAIN
    assert str(reply.auth[0].rname) == "attic.internal."


@pytest.mark.parametrize("name", ["attic.internal.example.org", "xattic.internal", "internal"])
def test_name_that_only_looks_like_ours_is_not_ours(name: str) -> None:
    query = parse_query(DNSRecord.question(name).pack())
    assert respond(query, CLIENT, SETTINGS) == Silence("not ours")
    assert respond(query, CLIENT, FORWARDING) == Relay()


def test_zone_has_an_authority_and_a_name_server() -> None:
    assert str(ask("attic.internal", "NS").rr[0].rdata) == "ns.attic.internal."
    assert ask("attic.internal", "SOA").rr[0].rtype == QTYPE.SOA
    assert len(ask("attic.internal", "ANY").rr) == 2


def test_address_has_the_name_of_its_machine_before_that_of_a_service() -> None:
    assert str(ask("2.86.168.192.in-addr.arpa", "PTR").rr[0].rdata) == "nas.attic.internal."
    assert str(ask("33.86.168.192.in-addr.arpa", "PTR").rr[0].rdata) == "pi5-1.attic.internal."
    assert ask("33.86.168.192.in-addr.arpa", "TXT").header.rcode == RCODE.NOERROR


def test_address_without_a_name_is_asked_elsewhere_only_beside_a_router() -> None:
    query = parse_query(DNSRecord.question("99.86.168.192.in-addr.arpa", "PTR").pack())
    owner = respond(query, CLIENT, FORWARDING)
    assert isinstance(owner, Reply)
    assert DNSRecord.parse(owner.data).header.rcode == RCODE.NXDOMAIN
    beside = replace(FORWARDING, zone=replace(ZONE, owns_reverse=False))
    assert respond(query, CLIENT, beside) == Relay()


def test_strangers_are_not_given_other_servers_answers() -> None:
    query = parse_query(DNSRecord.question("example.org").pack())
    answer = respond(query, IPv4Address("203.0.113.9"), FORWARDING)
    assert isinstance(answer, Reply)
    assert DNSRecord.parse(answer.data).header.rcode == RCODE.REFUSED


@pytest.mark.parametrize("change", ["opcode", "class"])
def test_what_is_not_implemented_is_said_so(change: str) -> None:
    question = DNSRecord.question("pi5-1.attic.internal")
    if change == "opcode":
        question.header.opcode = OPCODE.UPDATE
    else:
        question.q.qclass = CLASS.CH
    answer = respond(parse_query(question.pack()), CLIENT, SETTINGS)
    assert isinstance(answer, Reply)
    assert DNSRecord.parse(answer.data).header.rcode == RCODE.NOTIMP


def test_edns_is_answered_with_edns_and_a_newer_version_is_refused() -> None:
    reply = ask("pi5-1.attic.internal", edns=True)
    assert (reply.ar[0].rtype, reply.ar[0].edns_len) == (QTYPE.OPT, 1232)
    question = DNSRecord.question("pi5-1.attic.internal")
    question.add_ar(EDNS0(udp_len=4096, version=1))
    answer = respond(parse_query(question.pack()), CLIENT, SETTINGS)
    assert isinstance(answer, Reply)
    refused = DNSRecord.parse(answer.data)
    assert (refused.header.rcode, refused.ar[0].edns_rcode, refused.rr) == (0, 1, [])


def test_failure_keeps_id_and_question() -> None:
    query = parse_query(DNSRecord.question("example.org").pack())
    reply = DNSRecord.parse(failure(query))
    assert (reply.header.id, reply.header.rcode, str(reply.q.qname)) == (
        query.id,
        RCODE.SERVFAIL,
        "example.org.",
    )


@pytest.mark.parametrize("name", ["pi5-1.attic.internal", "a.attic.internal", "attic.internal"])
@pytest.mark.parametrize("qtype", ["A", "AAAA", "ANY", "SOA", "PTR"])
def test_no_answer_is_more_than_twice_its_query_on_the_wire(name: str, qtype: str) -> None:
    question = DNSRecord.question(name, qtype).pack()
    answer = respond(parse_query(question), CLIENT, SETTINGS)
    assert isinstance(answer, Reply)
    headers = 14 + 20 + 8  # Ethernet, IP, UDP
    assert len(answer.data) + headers <= 2 * (len(question) + headers)


def test_reverse_names_are_whole_addresses() -> None:
    assert parse_reverse("33.86.168.192.in-addr.arpa") == IPv4Address("192.168.86.33")
    for name in (
        "86.168.192.in-addr.arpa",
        "256.86.168.192.in-addr.arpa",
        "x.86.168.192.in-addr.arpa",
        "a.b",
    ):
        assert parse_reverse(name) is None


def test_zone_of_a_declared_cluster() -> None:
    spec = declared(changed())
    zone = make_zone(spec, SERVER, owns_reverse=True)
    assert zone.reverse_domain == "86.168.192.in-addr.arpa"
    assert zone.addresses("pi4-1.attic.internal") == (IPv4Address("192.168.86.27"),)
    assert zone.addresses("api.attic.internal") == (IPv4Address("192.168.86.33"),)  # no VIP: the servers
    with_vip = declared(changed(("cluster.k3s.api_vip", "192.168.86.20")))
    assert make_zone(with_vip, SERVER, owns_reverse=True).addresses("api.attic.internal") == (
        IPv4Address("192.168.86.20"),
    )


def test_server_does_not_ask_itself() -> None:
    text = changed(("network.dns_server", "forward"), ("network.dns", [str(SERVER), str(ROUTER)]))
    settings = make_name_settings(declared(text), SERVER)
    assert settings is not None
    assert (settings.rest, settings.upstreams) == (Rest.FORWARD, (ROUTER,))
    assert make_name_settings(declared(changed()), SERVER) is None
