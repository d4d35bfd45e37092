"""Would this packet get in? A small simulation of netfilter's input hook, over what `nft -j` or
`iptables-save` print. Reads rules, changes none.

A rule is understood, or it is not: then its verdict counts as possible, and the answer is "unknown" rather
than a guess. Sources: libnftables-json(5), iptables-save(8), iptables-extensions(8).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

MAX_DEPTH: Final = 16


class Verdict(StrEnum):
    """What becomes of a packet."""

    ACCEPT = "accept"
    DROP = "drop"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a conversation that arrives at this machine."""

    interface: str
    protocol: str
    port: int


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: `matches` decides over a packet (None: it can not be told), `verdict` what follows.

    Args:
        verdict: ``accept``, ``drop``, ``return``, ``jump NAME``, ``goto NAME``; empty for none (a counter).
        text: the rule as a person knows it.
    """

    conditions: tuple[tuple[str, Any], ...]
    verdict: str
    text: str


@dataclass(slots=True)
class Chain:
    """A chain; `policy` for base chains only."""

    rules: list[Rule] = field(default_factory=list)
    policy: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Ruleset:
    """Chains by name, and which of them the input hook calls, in order."""

    chains: Mapping[str, Chain]
    inputs: tuple[str, ...]

    def judge(self, packet: Packet) -> tuple[Verdict, str]:
        """The packet's fate, and the rule that decides it."""
        doubt = ""
        for name in self.inputs:
            verdict, why = self._walk(name, packet, 0)
            if verdict is Verdict.DROP:
                return verdict, why
            if verdict is Verdict.UNKNOWN:
                doubt = doubt or why
        return (Verdict.UNKNOWN, doubt) if doubt else (Verdict.ACCEPT, "")

    def _walk(self, name: str, packet: Packet, depth: int) -> tuple[Verdict | None, str]:
        chain = self.chains.get(name)
        if chain is None or depth > MAX_DEPTH:
            return Verdict.UNKNOWN, f"chain {name} is not known"
        doubt = ""
        for rule in chain.rules:
            applies = _applies(rule, packet)
            if applies is False or not rule.verdict:
                continue
            kind, _, target = rule.verdict.partition(" ")
            if kind in ("jump", "goto"):
                verdict, why = self._walk(target, packet, depth + 1)
                if verdict is None and kind == "jump":
                    continue
            else:
                verdict = {"accept": Verdict.ACCEPT, "drop": Verdict.DROP}.get(kind)
                why = rule.text
                if kind not in ("accept", "drop", "return"):
                    verdict = Verdict.UNKNOWN
            if applies is None:
                if verdict is Verdict.DROP or (verdict is Verdict.UNKNOWN):
                    doubt = doubt or why
                continue  # a possible accept is not counted on
            if verdict is None:
                break
            return (Verdict.UNKNOWN, doubt) if doubt else (verdict, why)
        if chain.policy:
            policy = Verdict.DROP if chain.policy == "drop" else Verdict.ACCEPT
            if doubt and policy is Verdict.ACCEPT:
                return Verdict.UNKNOWN, doubt
            return policy, f"policy {chain.policy} of chain {name}"
        return (Verdict.UNKNOWN, doubt) if doubt else (None, "")


def _applies(rule: Rule, packet: Packet) -> bool | None:
    told: bool | None = True
    for what, value in rule.conditions:
        answer: bool | None
        match what:
            case "interface":
                answer = _interface_matches(value, packet.interface)
            case "protocol":
                answer = packet.protocol in value
            case "port":
                answer = any(low <= packet.port <= high for low, high in value)
            case "state":
                answer = "new" in value
            case "never":
                answer = False
            case _:
                answer = None
        if answer is False:
            return False
        if answer is None:
            told = None
    return told


def _interface_matches(patterns: Iterable[str], name: str) -> bool:
    return any(
        name.startswith(pattern[:-1]) if pattern.endswith(("*", "+")) else name == pattern
        for pattern in patterns
    )


def parse_nft(text: str) -> Ruleset:
    """The answer of ``nft -j list ruleset``.

    Raises:
        ValueError: it is not that.
    """
    items = json.loads(text)["nftables"]
    chains: dict[str, Chain] = {}
    inputs: list[tuple[int, str]] = []
    for item in items:
        if (chain := item.get("chain")) is not None and chain["family"] in ("ip", "inet"):
            name = _nft_name(chain)
            chains[name] = Chain(policy=chain.get("policy", ""), priority=int(chain.get("prio", 0) or 0))
            if chain.get("hook") == "input" and chain.get("type") == "filter":
                inputs.append((chains[name].priority, name))
    for item in items:
        if (rule := item.get("rule")) is not None and rule["family"] in ("ip", "inet"):
            name = f"{rule['family']} {rule['table']} {rule['chain']}"
            chains.setdefault(name, Chain()).rules.append(_nft_rule(rule))
    return Ruleset(chains, tuple(name for _priority, name in sorted(inputs)))


def _nft_name(chain: Mapping[str, Any]) -> str:
    return f"{chain['family']} {chain['table']} {chain['name']}"


def _nft_rule(rule: Mapping[str, Any]) -> Rule:
    conditions: list[tuple[str, Any]] = []
    verdict = ""
    scope = f"{rule['family']} {rule['table']}"
    for part in rule.get("expr", ()):
        statement: dict[str, Any] = {part: None} if isinstance(part, str) else part
        for kind, value in statement.items():
            if kind == "match":
                conditions += _nft_match(value)
            elif kind == "vmap":
                condition, verdict = _nft_verdict_map(value, scope)
                conditions += condition
            elif kind not in ("counter", "log", "comment"):
                verdict = _nft_verdict({kind: value}, scope)
                if not verdict:
                    conditions.append(("other", kind))
    words = " ".join([*map(_words, conditions), verdict])
    return Rule(tuple(conditions), verdict, f"{scope} {rule['chain']}: {words}")


def _nft_verdict(statement: Mapping[str, Any], scope: str) -> str:
    """A verdict in our words; empty where the statement is none that is known."""
    ((kind, value),) = statement.items()
    if kind in ("accept", "drop", "return"):
        return kind
    if kind == "reject":
        return "drop"
    if kind in ("jump", "goto"):
        return f"{kind} {scope} {value['target']}"
    return ""


def _nft_verdict_map(value: Mapping[str, Any], scope: str) -> tuple[list[tuple[str, Any]], str]:
    """``ct state vmap { established : accept, invalid : drop }``: what a new conversation gets from it."""
    key, data = value.get("key"), value.get("data")
    if isinstance(key, dict) and key.get("ct", {}).get("key") == "state" and isinstance(data, dict):
        for state, statement in data.get("set", ()):
            if state == "new" and (verdict := _nft_verdict(statement, scope)):
                return [], verdict
        return [("never", "state")], ""
    return [("other", "vmap")], "drop"


def _nft_match(match: Mapping[str, Any]) -> list[tuple[str, Any]]:
    left, values = match.get("left"), _nft_set(match.get("right"))
    if match.get("op", "==") not in ("==", "in") or not isinstance(left, dict) or values is None:
        return [("other", "match")]
    if (meta := left.get("meta")) is not None:
        key = meta.get("key")
        if key in ("iifname", "iif"):
            return [("interface", tuple(map(str, values)))]
        if key == "l4proto":
            return [("protocol", tuple(map(str, values)))]
        if key in ("nfproto", "protocol"):
            return [] if {"ipv4", "ip"} & set(values) else [("never", key)]
    if (payload := left.get("payload")) is not None:
        protocol, name = payload.get("protocol"), payload.get("field")
        if protocol in ("udp", "tcp", "th") and name == "dport" and (ports := _ranges(values)) is not None:
            kinds = ("udp", "tcp") if protocol == "th" else (protocol,)
            return [("protocol", kinds), ("port", tuple(ports))]
        if name == "protocol":
            return [("protocol", tuple(map(str, values)))]
        if protocol in ("icmp", "icmpv6", "ip6", "igmp"):
            return [("never", protocol)]
    if left.get("ct", {}).get("key") == "state":
        return [("state", tuple(map(str, values)))]
    return [("other", "match")]


def _nft_set(value: Any) -> list[Any] | None:
    """Values of the right side; None for a named set, whose contents stand elsewhere."""
    if isinstance(value, dict) and "set" in value:
        return list(value["set"])
    if isinstance(value, list):
        return list(value)
    if isinstance(value, str) and value.startswith("@"):
        return None
    return [value]


def _ranges(values: Sequence[Any]) -> list[tuple[int, int]] | None:
    found: list[tuple[int, int]] = []
    for value in values:
        if isinstance(value, int):
            found.append((value, value))
        elif isinstance(value, dict) and isinstance(value.get("range"), list):
            low, high = value["range"]
            found.append((int(low), int(high)))
        else:
            return None
    return found


def _words(condition: tuple[str, Any]) -> str:
    what, value = condition
    if what == "port":
        ports = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in value)
        return f"port {ports}"
    if what == "other":
        return "(a condition that is not understood)"
    return f"{what} {', '.join(map(str, value))}" if isinstance(value, tuple) else str(value)


def parse_iptables(text: str) -> Ruleset:
    """The answer of ``iptables-save``, its filter table."""
    chains: dict[str, Chain] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif table != "filter":
            continue
        elif line.startswith(":"):
            name, policy, *_counters = line[1:].split()
            chains[name] = Chain(policy="" if policy == "-" else policy.lower())
        elif line.startswith("-A "):
            words = shlex.split(line)
            chains.setdefault(words[1], Chain()).rules.append(_iptables_rule(words[2:], line))
    return Ruleset(chains, ("INPUT",) if "INPUT" in chains else ())


def _iptables_rule(words: Sequence[str], line: str) -> Rule:
    conditions: list[tuple[str, Any]] = []
    verdict, position = "", 0
    while position < len(words):
        word, value = words[position], words[position + 1] if position + 1 < len(words) else ""
        position += 2
        match word:
            case "-i" | "--in-interface":
                conditions.append(("interface", (value,)))
            case "-p" | "--protocol":
                conditions.append(("protocol", ("udp", "tcp") if value == "all" else (value,)))
            case "--dport" | "--destination-port" | "--dports" | "--destination-ports":
                conditions.append(("port", tuple(_iptables_range(part) for part in value.split(","))))
            case "--state" | "--ctstate":
                conditions.append(("state", tuple(value.lower().split(","))))
            case "-j" | "--jump" | "-g" | "--goto":
                verdict = _iptables_verdict(value, goto=word in ("-g", "--goto"))
            case "-m" | "--match" | "--comment" | "--reject-with" | "--log-prefix" | "--log-level":
                continue
            case "!":
                conditions.append(("other", value))
                position += 1
            case _:
                conditions.append(("other", word))
    return Rule(tuple(conditions), verdict, line)


def _iptables_range(part: str) -> tuple[int, int]:
    low, _, high = part.partition(":")
    return int(low or 0), int(high or (low if ":" not in part else 65_535))


def _iptables_verdict(target: str, *, goto: bool) -> str:
    known = {"ACCEPT": "accept", "DROP": "drop", "REJECT": "drop", "RETURN": "return"}
    if target in known:
        return known[target]
    if target in ("LOG", "NFLOG", "MARK", "CONNMARK", "TRACE", "AUDIT"):
        return ""
    return f"{'goto' if goto else 'jump'} {target}"
