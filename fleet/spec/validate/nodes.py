"""Nodes against each other and against the hardware that they say they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from fleet.boards import DiskKind
from fleet.spec.draft import Draft, DraftNode
from fleet.spec.model import FirstBoot, Role
from fleet.spec.problems import Severity
from fleet.spec.shape import Finding

MIN_SERVER_MEMORY_MIB: Final = 2048
"""Source: k3s documentation, "Requirements": a server needs 2 GB, an agent 512 MB."""
MAX_KEPT: Final = 2
MIN_ROOT_MIB: Final = 8192
_KUBELET_LABELS: Final = frozenset(
    {
        "kubernetes.io/arch",
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    }
)
_KUBELET_PREFIXES: Final = ("kubelet.kubernetes.io", "node.kubernetes.io")


def check_nodes(draft: Draft) -> Iterator[Finding]:
    """Find duplicates, impossible hardware and labels that a node may not give itself."""
    yield from _duplicates(draft)
    for node in draft.nodes:
        yield from _disk(node)
        yield from _kept(node)
        yield from _memory(node)
        yield from _labels(node)
    yield from _first_boot(draft)


def _first_boot(draft: Draft) -> Iterator[Finding]:
    policy = draft.document.policy
    first_boot = policy.first_boot if policy else None
    if first_boot is not None and first_boot.server is FirstBoot.TRUST_LAN:
        yield Finding(
            ("policy", "first_boot", "server"),
            "'trust-lan' would make whoever shows a server's serial the whole cluster's administrator",
            "Write 'approve'. Servers whose device key is known ('bramble devices') install unattended.",
        )


def _duplicates(draft: Draft) -> Iterator[Finding]:
    fields: dict[str, Callable[[DraftNode], object]] = {
        "name": lambda node: node.section.name,
        "mac": lambda node: node.section.mac,
        # The low half is what a board sends while it boots: two nodes that share it cannot be told apart.
        "serial": lambda node: node.section.serial and node.section.serial.prefix,
        "address": lambda node: node.section.address,
    }
    for field, value_of in fields.items():
        first: dict[object, DraftNode] = {}
        for node in draft.nodes:
            value = value_of(node)
            if value is None:
                continue
            other = first.setdefault(value, node)
            if other is node:
                continue
            what = "serial with the last 8 digits" if field == "serial" else field
            owner = f"nodes[{other.index}]" + ("" if field == "name" else f" ({other.label})")
            yield Finding(
                node.at(field),
                f"the {what} {str(value)!r} is already that of {owner}",
                "Each board and each name stands in the file once.",
            )


def _disk(node: DraftNode) -> Iterator[Finding]:
    board, disk = node.section.board, node.section.disk
    if board is None or disk is None or disk.kind is None:
        return
    if disk.kind not in board.disks:
        choices = " or ".join(f"'disk: {kind}'" for kind in board.disks)
        yield Finding(
            node.at("disk"),
            f"{node.label} cannot boot from {disk.kind.value!r}, a {board.title} has no {disk.kind.label}",
            f"Write {choices}.",
        )
    elif node.section.role is Role.SERVER and disk.kind is DiskKind.SD:
        yield Finding(
            node.at("disk"),
            f"server {node.label} keeps etcd on {disk.kind.label}: etcd syncs every write, which such flash "
            "answers slowly and wears out under",
            "Give servers an NVMe or USB SSD where the board can have one.",
            Severity.WARNING,
        )


def _kept(node: DraftNode) -> Iterator[Finding]:
    disk = node.section.disk
    keep = [label for label in (disk.keep if disk else None) or () if label is not None]
    if len(keep) > MAX_KEPT:
        yield Finding(
            node.at("disk", "keep"),
            f"{len(keep)} partitions of {node.label} are to be kept, a disk has room for {MAX_KEPT} beside "
            "the image's two",
            "Join them, or use a disk of their own.",
        )
    if len(set(keep)) < len(keep):
        yield Finding(node.at("disk", "keep"), f"a label stands twice in 'keep' of {node.label}")
    if disk is not None and disk.root is not None and disk.root < MIN_ROOT_MIB:
        yield Finding(
            node.at("disk", "root"),
            f"a root partition of {disk.root} MiB is too small for {node.label}: images and containers need "
            f"{MIN_ROOT_MIB // 1024}G",
            f"Write at least {MIN_ROOT_MIB // 1024}G.",
        )


def _memory(node: DraftNode) -> Iterator[Finding]:
    board, memory = node.section.board, node.section.memory
    if memory is None:
        return
    if board is not None and memory not in board.memory_choices_mib:
        sizes = ", ".join(f"{size // 1024}G" for size in board.memory_choices_mib)
        yield Finding(
            node.at("memory"),
            f"{memory} MiB is not a size that a {board.title} was made with",
            f"Write one of: {sizes}.",
        )
    if node.section.role is Role.SERVER and memory < MIN_SERVER_MEMORY_MIB:
        yield Finding(
            node.at("role"),
            f"node {node.label} has {memory} MiB of memory, a k3s server needs {MIN_SERVER_MEMORY_MIB}",
            "Make it an agent, or choose another board as server.",
        )


def _labels(node: DraftNode) -> Iterator[Finding]:
    for key in node.section.labels or {}:
        prefix = key.rpartition("/")[0]
        if prefix == "node-role.kubernetes.io":
            yield Finding(
                node.at("labels", key),
                f"node {node.label} cannot give itself the label {key!r}, Kubernetes refuses role labels",
                "Set 'role:'; k3s labels its servers by itself.",
            )
        elif _is_reserved(prefix) and key not in _KUBELET_LABELS:
            yield Finding(
                node.at("labels", key),
                f"the label {key!r} is reserved, the kubelet refuses unknown labels under {prefix!r}",
                "Use a prefix of your own, such as 'example.org/tier', or none.",
            )


def _is_reserved(prefix: str) -> bool:
    """Source: Kubernetes, `kubelet --node-labels`: which keys under kubernetes.io and k8s.io it takes."""
    if any(prefix == own or prefix.endswith("." + own) for own in _KUBELET_PREFIXES):
        return False
    return any(prefix == zone or prefix.endswith("." + zone) for zone in ("kubernetes.io", "k8s.io"))
