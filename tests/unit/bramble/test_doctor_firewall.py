"""Whether a packet gets in, by the rules as nft and iptables print them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bramble.doctor.firewall import Packet, Verdict, parse_iptables, parse_nft

DHCP = Packet("eth0", "udp", 67)
HTTP = Packet("eth0", "tcp", 7080)


def nft(*rules: list[Any], policy: str = "drop", extra: tuple[dict[str, Any], ...] = ()) -> str:
    chain = {
        "family": "inet",
        "table": "filter",
        "name": "input",
        "type": "filter",
        "hook": "input",
        "prio": 0,
        "policy": policy,
    }
    items: list[dict[str, Any]] = [{"metainfo": {"json_schema_version": 1}}, {"chain": chain}, *extra]
    items += [
        {"rule": {"family": "inet", "table": "filter", "chain": "input", "expr": expr}} for expr in rules
    ]
    return json.dumps({"nftables": items})


def match(left: dict[str, Any], right: Any, operator: str = "==") -> dict[str, Any]:
    return {"match": {"op": operator, "left": left, "right": right}}


def dport(protocol: str, right: Any) -> dict[str, Any]:
    return match({"payload": {"protocol": protocol, "field": "dport"}}, right)


SIXTIES = {"set": [{"range": [60, 70]}]}
ACCEPT, DROP = {"accept": None}, {"drop": None}
ESTABLISHED = match({"ct": {"key": "state"}}, ["established", "related"], "in")
INCOMING = {"meta": {"key": "iifname"}}


@pytest.mark.parametrize(
    ("rules", "policy", "verdict"),
    [
        pytest.param([], "accept", Verdict.ACCEPT, id="open"),
        pytest.param([], "drop", Verdict.DROP, id="closed"),
        pytest.param([[ESTABLISHED, ACCEPT]], "drop", Verdict.DROP, id="answers only"),
        pytest.param([[dport("udp", 67), ACCEPT]], "drop", Verdict.ACCEPT, id="one port"),
        pytest.param([[dport("udp", {"set": [53, 67, 69]}), ACCEPT]], "drop", Verdict.ACCEPT, id="set"),
        pytest.param(
            [[dport("udp", {"set": [{"range": [60, 70]}]}), ACCEPT]], "drop", Verdict.ACCEPT, id="range"
        ),
        pytest.param([[dport("tcp", 67), ACCEPT]], "drop", Verdict.DROP, id="other protocol"),
        pytest.param([[dport("th", 67), ACCEPT]], "drop", Verdict.ACCEPT, id="any transport"),
        pytest.param([[dport("udp", 67), DROP]], "accept", Verdict.DROP, id="dropped"),
        pytest.param([[dport("udp", 67), {"reject": None}]], "accept", Verdict.DROP, id="rejected"),
        pytest.param([[match(INCOMING, "eth0"), ACCEPT]], "drop", Verdict.ACCEPT, id="interface"),
        pytest.param([[match(INCOMING, "lo"), ACCEPT]], "drop", Verdict.DROP, id="other interface"),
        pytest.param([[match(INCOMING, "eth*"), ACCEPT]], "drop", Verdict.ACCEPT, id="wildcard"),
        pytest.param(
            [[match(INCOMING, "eth0", "!="), ACCEPT]], "drop", Verdict.DROP, id="negation is not counted on"
        ),
        pytest.param(
            [[match(INCOMING, "eth0", "!="), DROP]], "accept", Verdict.UNKNOWN, id="negation may drop"
        ),
        pytest.param([[dport("udp", "@ports"), ACCEPT]], "drop", Verdict.DROP, id="named set"),
        pytest.param([[dport("udp", "@ports"), DROP]], "accept", Verdict.UNKNOWN, id="named set drops"),
        pytest.param(
            [[match({"payload": {"protocol": "icmp", "field": "type"}}, "echo-request"), DROP]],
            "accept",
            Verdict.ACCEPT,
            id="icmp",
        ),
        pytest.param([[{"counter": {"packets": 0}}, ACCEPT]], "drop", Verdict.ACCEPT, id="counter"),
        pytest.param([[{"xt": {"type": "match"}}, DROP]], "accept", Verdict.UNKNOWN, id="xt"),
        pytest.param([[{"return": None}]], "accept", Verdict.ACCEPT, id="return"),
    ],
)
def test_nft(rules: list[list[Any]], policy: str, verdict: Verdict) -> None:
    assert parse_nft(nft(*rules, policy=policy)).judge(DHCP)[0] is verdict


def test_a_verdict_map_over_states() -> None:
    states = {"set": [["established", {"accept": None}], ["invalid", {"drop": None}]]}
    rule = [{"vmap": {"key": {"ct": {"key": "state"}}, "data": states}}]
    assert parse_nft(nft(rule, policy="accept")).judge(DHCP)[0] is Verdict.ACCEPT
    states["set"].append(["new", {"drop": None}])
    assert parse_nft(nft(rule, policy="accept")).judge(DHCP)[0] is Verdict.DROP


def test_a_jump_comes_back_and_a_loop_ends() -> None:
    chains = tuple({"chain": {"family": "inet", "table": "filter", "name": name}} for name in ("a", "b"))
    rules = (
        {"rule": {"family": "inet", "table": "filter", "chain": "a", "expr": [dport("udp", 67), ACCEPT]}},
        {"rule": {"family": "inet", "table": "filter", "chain": "b", "expr": [{"jump": {"target": "b"}}]}},
    )
    found = parse_nft(nft([{"jump": {"target": "a"}}], extra=(*chains, *rules)))
    assert found.judge(DHCP)[0] is Verdict.ACCEPT
    assert found.judge(HTTP)[0] is Verdict.DROP
    looping = parse_nft(nft([{"jump": {"target": "b"}}], extra=(*chains, *rules)))
    assert looping.judge(DHCP)[0] is Verdict.UNKNOWN


def test_every_base_chain_has_to_let_it_in() -> None:
    second = {
        "chain": {
            "family": "ip",
            "table": "other",
            "name": "in",
            "type": "filter",
            "hook": "input",
            "prio": 10,
            "policy": "drop",
        }
    }
    verdict, why = parse_nft(nft(policy="accept", extra=(second,))).judge(DHCP)
    assert verdict is Verdict.DROP
    assert "ip other in" in why


@pytest.mark.parametrize(
    ("rules", "policy", "verdict"),
    [
        ("", "ACCEPT", Verdict.ACCEPT),
        ("", "DROP", Verdict.DROP),
        ("-A INPUT -p udp -m udp --dport 67 -j ACCEPT", "DROP", Verdict.ACCEPT),
        ("-A INPUT -p udp -m multiport --dports 53,60:69 -j ACCEPT", "DROP", Verdict.ACCEPT),
        (
            "-A INPUT -p udp -m udp --dport 67 -j REJECT --reject-with icmp-port-unreachable",
            "ACCEPT",
            Verdict.DROP,
        ),
        ("-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "DROP", Verdict.DROP),
        ("-A INPUT -i lo -j ACCEPT", "DROP", Verdict.DROP),
        ("-A INPUT ! -i eth0 -j ACCEPT", "DROP", Verdict.DROP),
        ("-A INPUT -s 10.0.0.0/8 -j DROP", "ACCEPT", Verdict.UNKNOWN),
        ("-A INPUT -j ufw\n-A ufw -p udp -m udp --dport 67 -j ACCEPT", "DROP", Verdict.ACCEPT),
        ('-A INPUT -m comment --comment "two words" -j LOG --log-prefix "[x] "', "DROP", Verdict.DROP),
    ],
)
def test_iptables(rules: str, policy: str, verdict: Verdict) -> None:
    nat = "*nat\n:INPUT DROP [0:0]\nCOMMIT\n"
    text = f"# Generated\n{nat}*filter\n:INPUT {policy} [0:0]\n:ufw - [0:0]\n{rules}\n"
    assert parse_iptables(text).judge(DHCP)[0] is verdict


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"nftables": [{"chain": {}}]}'])
def test_what_is_no_answer_of_nft_is_refused(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        parse_nft(text)
