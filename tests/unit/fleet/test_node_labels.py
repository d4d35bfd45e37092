"""Labels and taints after registration: declared ones, the board's own, and everybody else's."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from fakes_fleet import node_spec
from hypothesis import given
from hypothesis import strategies as st

from fleet.kube.node_labels import OWNED, desired_labels, node_patch
from fleet.kube.objects import KubeNode
from fleet.spec.model import Taint

NODE = node_spec("a1", 1)
TAINT = Taint("sd", "yes", "NoSchedule")


def seen(labels: dict[str, str], owned: str = "", taints: tuple[tuple[str, str, str], ...] = ()) -> KubeNode:
    return KubeNode(
        "a1",
        True,
        "",
        "v1.33.5+k3s1",
        resource_version="7",
        labels=labels,
        annotations={OWNED: owned} if owned else {},
        taints=taints,
    )


def applied(node: KubeNode, patch: dict[str, Any] | None) -> KubeNode:
    """What the API server makes of the patch."""
    metadata, spec = (patch or {}).get("metadata", {}), (patch or {}).get("spec", {})
    labels = {**node.labels, **metadata.get("labels", {})}
    taints = node.taints
    if "taints" in spec:
        taints = tuple((one["key"], one.get("value", ""), one["effect"]) for one in spec["taints"])
    return dataclasses.replace(
        node,
        labels={key: value for key, value in labels.items() if value is not None},
        annotations={**node.annotations, **metadata.get("annotations", {})},
        taints=taints,
    )


@pytest.mark.parametrize(
    ("memory", "label"),
    [
        (8 << 30, "8Gi"),
        (8_320_000_000, "8Gi"),
        (960_000_000, "1Gi"),
        (16_700_000_000, "16Gi"),
        (2_000_000_000, "2Gi"),
        (None, None),
        (10**15, None),
    ],
)
def test_board_is_labelled(memory: int | None, label: str | None) -> None:
    labels = desired_labels(NODE, {"hardware": {"memory_bytes": memory}})
    assert labels["bramble.dev/board"] == "pi5"
    assert labels["bramble.dev/disk"] == "nvme"
    assert labels.get("bramble.dev/memory") == label
    assert labels["tier"] == "small"


def test_node_that_was_never_heard_gets_what_is_declared() -> None:
    assert desired_labels(NODE, None) == {
        "tier": "small", "bramble.dev/board": "pi5", "bramble.dev/disk": "nvme"
    }  # fmt: skip


def test_declared_label_wins_over_the_boards() -> None:
    node = dataclasses.replace(NODE, labels={"bramble.dev/disk": "fast"})
    assert desired_labels(node, None)["bramble.dev/disk"] == "fast"


def test_label_that_leaves_the_file_leaves_the_node_and_others_stay() -> None:
    first = applied(seen({"human": "1"}), node_patch(seen({"human": "1"}), {"tier": "small"}, ()))
    assert first.labels == {"human": "1", "tier": "small"}
    second = applied(first, node_patch(first, {"zone": "a"}, ()))
    assert second.labels == {"human": "1", "zone": "a"}


def test_label_that_a_person_removed_from_the_node_is_not_asked_for_twice() -> None:
    node = seen({}, '{"labels":["tier"],"taints":[]}')
    patch = node_patch(node, {}, ())
    assert patch == {"metadata": {"annotations": {OWNED: '{"labels":[],"taints":[]}'}}}


def test_taints_are_bound_to_the_version_that_was_read_and_keep_other_peoples() -> None:
    theirs = ("node.kubernetes.io/unschedulable", "", "NoSchedule")
    patch = node_patch(seen({}, taints=(theirs,)), {}, (TAINT,))
    assert patch is not None
    assert patch["metadata"]["resourceVersion"] == "7"
    assert patch["spec"]["taints"] == [
        {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
        {"key": "sd", "value": "yes", "effect": "NoSchedule"},
    ]


def test_taint_that_leaves_the_file_leaves_the_node() -> None:
    tainted = applied(seen({}), node_patch(seen({}), {}, (TAINT,)))
    patch = node_patch(tainted, {}, ())
    assert applied(tainted, patch).taints == ()


def test_labels_alone_are_patched_whatever_others_do() -> None:
    patch = node_patch(seen({}), {"tier": "small"}, ())
    assert patch is not None
    assert "resourceVersion" not in patch["metadata"]
    assert "spec" not in patch


@pytest.mark.parametrize("owned", ["nonsense", "[]", '{"labels":1,"taints":[]}', '{"labels":[]}', "null"])
def test_annotation_that_somebody_spoiled_is_written_anew(owned: str) -> None:
    patch = node_patch(seen({"tier": "small"}, owned), {"tier": "small"}, ())
    assert patch == {"metadata": {"annotations": {OWNED: '{"labels":["tier"],"taints":[]}'}}}


KEYS = st.sampled_from(["a", "b", "x.example/c", "d"])
LABELS = st.dictionaries(KEYS, st.sampled_from(["1", "2"]))
TAINTS = st.lists(
    st.builds(Taint, KEYS, st.sampled_from(["", "v"]), st.sampled_from(["NoSchedule", "NoExecute"])),
    unique_by=lambda taint: (taint.key, taint.effect),
    max_size=3,
).map(tuple)


@given(st.lists(st.tuples(LABELS, TAINTS), min_size=1, max_size=4), LABELS)
def test_every_sequence_of_files_ends_in_line_and_leaves_strangers_alone(
    files: list[tuple[dict[str, str], tuple[Taint, ...]]], strangers: dict[str, str]
) -> None:
    theirs = {f"human/{key}": value for key, value in strangers.items()}
    node = seen(theirs, taints=(("human", "", "NoExecute"),))
    for labels, taints in files:
        node = applied(node, node_patch(node, labels, taints))
        assert node.labels == {**theirs, **labels}
        assert set(node.taints) == {
            ("human", "", "NoExecute"),
            *((one.key, one.value, one.effect) for one in taints),
        }
        assert node_patch(node, labels, taints) is None
