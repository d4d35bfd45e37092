"""What a new cluster.yaml changes in a running cluster, and what of it can not be. Pure.

A file is applied as a whole or not at all: a running server whose state is half of one file and half of
another could not be told from either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from fleet.boards import Serial
from fleet.lifecycle import LEAVING, State
from fleet.quorum import Member, removal_problem
from fleet.spec.export import image_inputs, to_document
from fleet.spec.model import ClusterSpec, Role
from fleet.store.records import NodeRecord
from fleet.store.trust import NodeBoard


class Kind(StrEnum):
    """What happens to one key, or one node."""

    ADD = "add"
    REMOVE = "remove"
    CHANGE = "change"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One difference.

    Attributes:
        key: `nodes.pi5-2`, `nodes.pi5-2.labels`, `policy.join.batch`.
        before, after: As in cluster.yaml, for people; empty where there is none.
        effect: What it does, or why it is refused.
        hint: How to get there all the same; for refused ones.
    """

    kind: Kind
    key: str
    before: str
    after: str
    effect: str
    hint: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def was_installed(record: NodeRecord) -> bool:
    """Its disk holds, or held, an image of this cluster."""
    return record.state.is_installed or record.image_id is not None


_ALIKE_ON_ALL_SERVERS: Final = (
    "cluster-cidr",
    "cluster-dns",
    "cluster-domain",
    "disable",
    "disable-helm-controller",
    "disable-kube-proxy",
    "disable-network-policy",
    "egress-selector-mode",
    "flannel-backend",
    "flannel-ipv6-masq",
    "secrets-encryption",
    "service-cidr",
)
"""k3s refuses to start a server whose value of these differs from the others'. Source: k3s documentation,
"High availability embedded etcd"; its error `critical configuration value mismatch`."""

_NEEDS_RESTART: Final[Mapping[tuple[str, ...], str]] = {
    ("cluster", "domain"): "names of the zone and of certificates are made when the server starts",
    ("network",): "sockets are bound when the server starts",
}
_IN_IMAGE: Final = (
    ("image",),
    ("cluster", "k3s", "version"),
    ("cluster", "k3s", "source"),
    ("cluster", "k3s", "airgap_images"),
    ("cluster", "k3s", "registries"),
    ("cluster", "k3s", "api_vip"),
)
_RESTART: Final = "Stop 'bramble serve' and start it again with this file; the cluster goes on meanwhile."
_BUILD: Final = "Run 'bramble build' with this file on the server's machine, then this again."

_MEMBERS: Final = frozenset(
    {State.READY, State.DEGRADED, State.LOST, State.MEMBER_REMOVED, State.FAILED_MEMBER_REMOVED, *LEAVING}
)
_IDENTITY: Final = ("role", "board", "mac", "serial", "address")
_HALVES: Final[Mapping[str, str]] = {"mac": "serial", "serial": "mac"}
"""Either names a board."""
_NODE_EFFECTS: Final[Mapping[str, str]] = {
    "labels": "set on its Node object within seconds",
    "taints": "set on its Node object within seconds",
    "disk": "counts for its next installation",
    "power": "in force at once",
    "memory": "in force at once",
}


def compare(
    running: ClusterSpec,
    new: ClusterSpec,
    records: Iterable[NodeRecord],
    *,
    founded: bool,
    image: str | None = None,
    boards: Mapping[str, NodeBoard] = MappingProxyType({}),
) -> tuple[Change, ...]:
    """Every difference, nodes last.

    Args:
        records: What is known of the running cluster's nodes.
        boards: What their boards showed of themselves, by node.
        founded: The cluster's first server was Ready once: k3s has fixed what it fixes at the start.
        image: Id of the new file's image; None: it is not built.
    """
    known = {record.name: record for record in records}
    before, after = to_document(running), to_document(new)
    return (
        *_compare_values(before, after, founded=founded, image=image),
        *_compare_nodes(before["nodes"], after["nodes"], known, boards),
    )


def changes_image(running: ClusterSpec, new: ClusterSpec) -> bool:
    """Whether the new file's image is another one, as far as the files tell."""
    return image_inputs(running) != image_inputs(new)


def _compare_values(
    before: dict[str, Any], after: dict[str, Any], *, founded: bool, image: str | None
) -> Iterator[Change]:
    old, new = dict(_leaves(before)), dict(_leaves(after))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) == new.get(key):
            continue
        kind, effect, hint = _judge_value(key, founded=founded, image=image)
        yield Change(
            kind=kind,
            key=".".join(key),
            before=_text(old.get(key)),
            after=_text(new.get(key)),
            effect=effect,
            hint=hint,
        )


def _judge_value(key: tuple[str, ...], *, founded: bool, image: str | None) -> tuple[Kind, str, str]:
    if key == ("cluster", "name"):
        hint = "Another name is another cluster, with a record and keys of its own: serve it beside this one."
        return Kind.REFUSED, "the running server is of another cluster", hint
    for prefix, why in _NEEDS_RESTART.items():
        if key[: len(prefix)] == prefix:
            return Kind.REFUSED, why, _RESTART
    if any(key[: len(prefix)] == prefix for prefix in _IN_IMAGE):
        return _judge_image(image)
    if key[:3] == ("cluster", "k3s", "config"):
        name = key[3].removesuffix("+") if len(key) > 3 else ""
        if founded and name in _ALIKE_ON_ALL_SERVERS:
            effect = "k3s fixes it when the cluster is founded, and servers that differ do not start"
            return Kind.REFUSED, effect, "Change it back, or found a new cluster."
        return Kind.CHANGE, "in force on a server when its k3s starts the next time", ""
    return Kind.CHANGE, "in force at once", ""


def _judge_image(image: str | None) -> tuple[Kind, str, str]:
    if image is None:
        return Kind.REFUSED, "it is a part of the cluster's image, and that one is not built yet", _BUILD
    effect = (
        f"what installs from now on gets image {image[:12]}; nodes that are installed keep theirs until "
        "'bramble rollout'"
    )
    return Kind.CHANGE, effect, ""


def _compare_nodes(
    before: list[dict[str, Any]],
    after: list[dict[str, Any]],
    known: Mapping[str, NodeRecord],
    boards: Mapping[str, NodeBoard],
) -> Iterator[Change]:
    old, new = ({node["name"]: node for node in nodes} for nodes in (before, after))
    # The record may have nodes that only another server's file names, so far.
    there = {record.name for record in known.values() if record.state is not State.DECOMMISSIONED}
    leaving = sorted((old.keys() | there) - new.keys())
    problem = removal_problem(_members(known.values()), leaving)
    for name in leaving:
        yield _removal(name, old.get(name), known.get(name), problem)
    for name in new:
        if name not in old:
            yield _addition(new[name], known.get(name))
            continue
        record = known.get(name)
        installed = record is not None and was_installed(record)
        for field in sorted(new[name]):
            if old[name][field] == new[name][field]:
                continue
            if _completes(field, old[name], new[name], boards.get(name)):
                yield _completion(name, field, new[name][field])
                continue
            yield _node_change(name, field, old[name][field], new[name][field], installed=installed)


def _completes(field: str, old: Mapping[str, Any], new: Mapping[str, Any], bound: NodeBoard | None) -> bool:
    """Whether this names the half of the board's identity that was not declared, and the other half stays.

    After its board was replaced a node is known by the serial number alone; the file is to name its MAC
    address again. What the board itself showed must not say otherwise.
    """
    if field not in _HALVES or old[field] is not None or new[field] is None:
        return False
    other = _HALVES[field]
    if old[other] is None or old[other] != new[other] or bound is None:
        return False
    if field == "mac":
        return new[field] in bound.macs
    return bound.serial is not None and Serial.parse(bound.serial).matches(Serial.parse(new[field]))


def _completion(name: str, field: str, after: Any) -> Change:
    return Change(
        kind=Kind.CHANGE,
        key=f"nodes.{name}.{field}",
        before="",
        after=_text(after),
        effect="its board has shown it: the same board, from now on known by both",
    )


def _removal(
    name: str, node: Mapping[str, Any] | None, record: NodeRecord | None, problem: str | None
) -> Change:
    before = _summary(node) if node is not None else "of another server's file"
    if problem is not None and record is not None and _is_member(record):
        return Change(
            kind=Kind.REFUSED,
            key=f"nodes.{name}",
            before=before,
            after="",
            effect=f"the cluster would not survive it: {problem}",
            hint="Bring the other servers back, or add servers, first.",
        )
    effect = "its certificate is void at once"
    if record is not None and was_installed(record):
        effect += f"; drain it and run 'kubectl delete node {name}' to take it out of Kubernetes"
    return Change(kind=Kind.REMOVE, key=f"nodes.{name}", before=before, after="", effect=effect)


def _addition(node: Mapping[str, Any], record: NodeRecord | None) -> Change:
    was_there = record is not None and was_installed(record)
    return Change(
        kind=Kind.ADD,
        key=f"nodes.{node['name']}",
        before="",
        after=_summary(node),
        effect="its disk holds an earlier installation, which it goes on with"
        if was_there
        else "it installs and joins when it is switched on",
    )


def _node_change(name: str, field: str, before: Any, after: Any, *, installed: bool) -> Change:
    refused = installed and field in _IDENTITY
    if refused:
        what = {
            "role": "it was installed in its role, and its disk holds that role's k3s",
            "address": "its address is written on its disk, and etcd and the kubelet know it by that",
        }.get(field, "it is installed: what this names is another board")
        hint = "Write what it was. " + (
            "Another address comes with its next installation."
            if field == "address"
            else f"Another board is another node: give it a name of its own, or this one's place: "
            f"'bramble replace {name} --with SERIAL'."
        )
    return Change(
        kind=Kind.REFUSED if refused else Kind.CHANGE,
        key=f"nodes.{name}.{field}",
        before=_text(before),
        after=_text(after),
        effect=what if refused else _NODE_EFFECTS.get(field, "in force at once"),
        hint=hint if refused else "",
    )


def _is_member(record: NodeRecord) -> bool:
    """Whether etcd counts it, as far as the record tells: it was Ready as a server."""
    return record.role is Role.SERVER and record.state in _MEMBERS


def _members(records: Iterable[NodeRecord]) -> list[Member]:
    return [
        Member(name=record.name, votes=True, healthy=record.state is State.READY)
        for record in records
        if _is_member(record)
    ]


def _leaves(value: dict[str, Any], at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value that is no mapping, with its path; nodes are compared by their names."""
    for name, inner in value.items():
        key = (*at, str(name))
        if key == ("nodes",):
            continue
        if isinstance(inner, dict) and inner:
            yield from _leaves(inner, key)
        else:
            yield key, inner or None


def _summary(node: Mapping[str, Any]) -> str:
    words = (node["board"], node["role"], node["address"], node["serial"] or node["mac"])
    return ", ".join(str(word) for word in words if word)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{key}={inner}" for key, inner in value.items() if inner is not None)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
