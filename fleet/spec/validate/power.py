"""How boards are switched: what each driver needs, and that no outlet is two nodes'."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from fleet.spec.draft import Draft, DraftNode
from fleet.spec.problems import Severity
from fleet.spec.schema_power import (
    CommandSection,
    ManualSection,
    PowerSection,
    ShellySection,
    SnmpPoeSection,
    TasmotaSection,
)
from fleet.spec.shape import Finding


def check_power(draft: Draft) -> Iterator[Finding]:
    """Find what a driver lacks, what excludes each other, and outlets that would switch two boards."""
    for node in draft.nodes:
        power = node.section.power
        if power is not None:
            yield from _needed(draft, node, power)
            yield from _secrets(draft, node, power)
    yield from _shared(draft)


def _needed(draft: Draft, node: DraftNode, power: PowerSection) -> Iterator[Finding]:
    needed: dict[str, object]
    match power:
        case ManualSection():
            return
        case CommandSection():
            needed = {"on": power.on, "off": power.off}
        case TasmotaSection() | ShellySection():
            needed = {"url": power.url}
        case SnmpPoeSection():
            needed = {"host": power.host, "port": power.port}
    for name, value in needed.items():
        key = node.at("power", name)
        if not value and not draft.is_faulty(key):
            hint = f"Add '{name}: …' to 'power', here or under 'defaults'."
            yield Finding(key, f"power driver {power.driver!r} of node {node.label} needs {name!r}", hint)
    if isinstance(power, CommandSection) and power.status is None and not draft.is_faulty(node.at("power")):
        yield Finding(
            node.at("power"),
            f"power driver 'command' of node {node.label} has no 'status', so nobody can tell whether it "
            "worked",
            "Add 'status: […]', a command that prints 'on' or 'off'.",
            Severity.WARNING,
        )


def _secrets(draft: Draft, node: DraftNode, power: PowerSection) -> Iterator[Finding]:
    """Each secret comes from one place; SNMP has a community or a user."""
    match power:
        case TasmotaSection() | ShellySection():
            yield from _one_place(draft, node, power, "password")
        case SnmpPoeSection():
            names = ("community", "auth_password", "privacy_password")
            for name in names:
                yield from _one_place(draft, node, power, name)
            given = {name: _is_given(draft, node, power, name) for name in names}
            if any(draft.is_faulty(node.at("power", name)) for name in ("user", "auth", "privacy")):
                return
            yield from _snmp(node, power, given)
        case _:
            return


def _snmp(node: DraftNode, power: SnmpPoeSection, given: dict[str, bool]) -> Iterator[Finding]:
    key, label = node.at("power"), node.label
    if power.user is None:
        if not given["community"]:
            yield Finding(
                node.at("power", "community_file"),
                f"power driver 'snmp-poe' of node {label} needs 'community_file' (version 2c) or 'user' "
                "(version 3)",
                "Add 'community_file: …', or a user of version 3, which does not send its secret in clear.",
            )
        if power.auth or power.privacy or given["auth_password"] or given["privacy_password"]:
            yield Finding(key, f"node {label} has settings of SNMP version 3 and no 'user'", "Add 'user: …'.")
        return
    if given["community"]:
        yield Finding(
            key,
            f"node {label} has a community (SNMP version 2c) and a user (version 3)",
            "Keep one of the two.",
        )
    if not given["auth_password"]:
        yield Finding(
            node.at("power", "auth_password_file"),
            f"SNMP user {power.user!r} of node {label} has no 'auth_password_file'",
            "Add it: without a password anybody could switch the port.",
        )
    if (power.privacy is not None) != given["privacy_password"]:
        lacks = "'privacy_password_file'" if power.privacy is not None else "'privacy'"
        yield Finding(key, f"SNMP user {power.user!r} of node {label} lacks {lacks}", "Give both, or none.")


def _one_place(draft: Draft, node: DraftNode, power: PowerSection, name: str) -> Iterator[Finding]:
    file, variable = getattr(power, f"{name}_file"), getattr(power, f"{name}_env")
    if file is not None and variable is not None:
        yield Finding(
            node.at("power", f"{name}_env"),
            f"'{name}_file' and '{name}_env' of node {node.label} both say where the secret is",
            "Keep one of the two.",
        )


def _is_given(draft: Draft, node: DraftNode, power: PowerSection, name: str) -> bool:
    keys = (f"{name}_file", f"{name}_env")
    return any(getattr(power, key) is not None or draft.is_faulty(node.at("power", key)) for key in keys)


def _shared(draft: Draft) -> Iterator[Finding]:
    """An order for one node must never switch another."""
    first: dict[tuple[object, ...], DraftNode] = {}
    for node in draft.nodes:
        outlet = _outlet(node)
        other = first.setdefault(outlet, node) if outlet is not None else node
        if other is not node:
            yield Finding(
                node.at("power"),
                f"node {node.label} and node {other.label} have one and the same outlet: switching one would "
                "switch the other",
                "Give each its own: 'output', 'channel' or 'port', or '{node}' in the commands.",
            )


def _outlet(node: DraftNode) -> tuple[object, ...] | None:
    """What tells one outlet from another; None where nothing is switched, or too little is known."""
    power = node.section.power
    match power:
        case None | ManualSection():
            return None
        case CommandSection():
            if not power.on or not power.off or node.section.name is None:
                return None
            name = node.section.name
            return ("command", *(tuple((word or "").replace("{node}", name) for word in power.off),))
        case TasmotaSection():
            return ("http", *_place(power.url), power.output or 1) if power.url else None
        case ShellySection():
            # Counted from 0, the others from 1: one device is never both.
            return ("http", *_place(power.url), (power.channel or 0) + 1) if power.url else None
        case SnmpPoeSection():
            if power.host is None or power.port is None:
                return None
            return ("snmp", power.host, power.udp_port or 161, power.group or 1, power.port)


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return (parts.hostname or "").casefold(), parts.port or (443 if parts.scheme == "https" else 80)
