"""Labels and taints of a Node object after its registration: as cluster.yaml says, and what the board is.
Pure.

k3s reads its `node-label` and `node-taint` settings once, when a node registers. From then on they are kept
here. What Bramble set is written down in an annotation, so that a label that leaves cluster.yaml leaves the
node, and one that somebody else put there stays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from fleet.kube.objects import KubeNode
from fleet.spec.model import NodeSpec, Taint

OWNED: Final = "bramble.dev/owned"
"""Annotation: JSON with the label keys and the taints (`key:effect`) that Bramble set."""
BOARD_LABEL: Final = "bramble.dev/board"
MEMORY_LABEL: Final = "bramble.dev/memory"
DISK_LABEL: Final = "bramble.dev/disk"
_MEMORY_SIZES_GIB: Final = (1, 2, 4, 8, 16, 32)
_GIB: Final = 1 << 30

TaintKey = tuple[str, str]
"""Key and effect: a node has one taint of each."""


def desired_labels(node: NodeSpec, status: Mapping[str, Any] | None) -> dict[str, str]:
    """The declared labels, and the board's model, memory and kind of disk.

    Args:
        status: The agent's last report; memory is labelled once it is known.
    """
    labels = {BOARD_LABEL: node.board.yaml_name, DISK_LABEL: node.disk.kind.value}
    memory = ((status or {}).get("hardware") or {}).get("memory_bytes")
    size = _memory_size(memory) if isinstance(memory, int) else None
    if size is not None:
        labels[MEMORY_LABEL] = size
    return {**labels, **node.labels}


def _memory_size(memory_bytes: int) -> str | None:
    """The size that the board was sold with: the kernel sees a little less."""
    return next((f"{size}Gi" for size in _MEMORY_SIZES_GIB if memory_bytes <= size * _GIB), None)


def node_patch(seen: KubeNode, labels: Mapping[str, str], taints: tuple[Taint, ...]) -> dict[str, Any] | None:
    """The merge patch that brings a Node object in line; None: it is.

    Taints are one list, which others change too: a patch of them is bound to the version that was read, and
    refused with 409 where somebody came in between.
    """
    owned_labels, owned_taints = _read_owned(seen)
    wanted_taints = {(taint.key, taint.effect): taint.value for taint in taints}
    new_labels: dict[str, str | None] = {
        key: value for key, value in labels.items() if seen.labels.get(key) != value
    }
    new_labels |= {key: None for key in owned_labels - labels.keys() if key in seen.labels}
    metadata: dict[str, Any] = {}
    if new_labels:
        metadata["labels"] = new_labels
    if owned_labels != labels.keys() or owned_taints != wanted_taints.keys():
        metadata["annotations"] = {OWNED: _write_owned(labels, wanted_taints)}
    patch: dict[str, Any] = {}
    merged = _merge_taints(seen, wanted_taints, gone=owned_taints - wanted_taints.keys())
    if merged != list(seen.taints):
        metadata["resourceVersion"] = seen.resource_version
        patch["spec"] = {"taints": [_taint_object(*taint) for taint in merged]}
    if metadata:
        patch["metadata"] = metadata
    return patch or None


def _merge_taints(
    seen: KubeNode, wanted: Mapping[TaintKey, str], *, gone: set[TaintKey]
) -> list[tuple[str, str, str]]:
    """Those that are there, in their order, with ours as they should be; new ones at the end."""
    present = {(key, effect): value for key, value, effect in seen.taints}
    merged = {taint: value for taint, value in present.items() if taint not in gone} | dict(wanted)
    return [(key, value, effect) for (key, effect), value in merged.items()]


def _taint_object(key: str, value: str, effect: str) -> dict[str, str]:
    return {"key": key, "value": value, "effect": effect} if value else {"key": key, "effect": effect}


def _read_owned(seen: KubeNode) -> tuple[set[str], set[TaintKey]]:
    """What the annotation says; what somebody wrote into it by hand counts for nothing."""
    try:
        told = json.loads(seen.annotations.get(OWNED, ""))
        taints = {(str(taint).rpartition(":")[0], str(taint).rpartition(":")[2]) for taint in told["taints"]}
        return set(map(str, told["labels"])), taints
    except (ValueError, TypeError, KeyError):
        return set(), set()


def _write_owned(labels: Mapping[str, str], taints: Mapping[TaintKey, str]) -> str:
    names = [f"{key}:{effect}" for key, effect in sorted(taints)]
    return json.dumps({"labels": sorted(labels), "taints": names}, separators=(",", ":"))
