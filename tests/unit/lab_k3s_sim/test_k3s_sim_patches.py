"""Patches of three kinds, and selectors."""

from __future__ import annotations

from typing import Any

import pytest

from lab.k3s_sim.node.errors import StatusError
from lab.k3s_sim.node.patches import (
    JSON_PATCH,
    MERGE,
    STRATEGIC,
    apply_patch,
    json_patch,
    merge_patch,
    strategic_patch,
)
from lab.k3s_sim.node.selectors import field_selector, label_selector, matches_label_selector


def test_a_merge_patch_follows_rfc_7386() -> None:
    target: dict[str, Any] = {"a": "b", "c": {"d": "e", "f": "g"}, "l": [1]}
    patch: dict[str, Any] = {"a": "z", "c": {"f": None}, "l": [2], "n": {"x": None, "y": 1}}
    assert merge_patch(target, patch) == {"a": "z", "c": {"d": "e"}, "l": [2], "n": {"y": 1}}
    assert target["c"] == {"d": "e", "f": "g"}


def test_a_strategic_patch_merges_lists_by_their_keys() -> None:
    target = {
        "metadata": {"finalizers": ["a"], "labels": {"x": "1"}},
        "spec": {"taints": [{"key": "mine", "effect": "NoExecute"}, {"key": "old", "effect": "NoSchedule"}]},
        "status": {"conditions": [{"type": "Ready", "status": "False", "reason": "r"}], "images": ["i"]},
    }
    patch = {
        "metadata": {"finalizers": ["a", "b"], "labels": {"x": None, "y": "2"}},
        "spec": {
            "$setElementOrder/taints": [{"key": "new"}],
            "taints": [{"key": "new", "effect": "NoSchedule"}, {"key": "old", "$patch": "delete"}],
        },
        "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Pi", "status": "True"}]},
    }
    assert strategic_patch(target, patch) == {
        "metadata": {"finalizers": ["a", "b"], "labels": {"y": "2"}},
        "spec": {"taints": [{"key": "mine", "effect": "NoExecute"}, {"key": "new", "effect": "NoSchedule"}]},
        "status": {
            "conditions": [
                {"type": "Ready", "status": "True", "reason": "r"},
                {"type": "Pi", "status": "True"},
            ],
            "images": ["i"],
        },
    }


def test_a_strategic_patch_replaces_and_deletes_where_it_says_so() -> None:
    target = {"metadata": {"finalizers": ["a", "b"]}, "spec": {"taints": [{"key": "a"}], "x": 1}}
    replaced = {"spec": {"$patch": "replace", "y": 2}}
    assert strategic_patch(target, replaced)["spec"] == {"y": 2}
    whole = {"spec": {"taints": [{"$patch": "replace"}, {"key": "b"}]}}
    assert strategic_patch(target, whole)["spec"] == {"taints": [{"key": "b"}], "x": 1}
    fewer = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}
    assert strategic_patch(target, fewer)["metadata"] == {"finalizers": ["b"]}
    with pytest.raises(StatusError, match="does not contain declared merge key: key"):
        strategic_patch(target, {"spec": {"taints": [{"effect": "NoSchedule"}]}})


def test_a_json_patch_follows_rfc_6902() -> None:
    target = {"metadata": {"labels": {"a/b": "1"}}, "list": [1, 3]}
    operations = [
        {"op": "test", "path": "/metadata/labels/a~1b", "value": "1"},
        {"op": "add", "path": "/list/1", "value": 2},
        {"op": "add", "path": "/list/-", "value": 4},
        {"op": "replace", "path": "/metadata/labels/a~1b", "value": "2"},
        {"op": "copy", "from": "/list/0", "path": "/first"},
        {"op": "move", "from": "/list", "path": "/moved"},
        {"op": "remove", "path": "/moved/0"},
    ]
    assert json_patch(target, operations) == {
        "metadata": {"labels": {"a/b": "2"}},
        "first": 1,
        "moved": [2, 3, 4],
    }
    assert target["list"] == [1, 3]


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/a", "value": 2},
        {"op": "remove", "path": "/absent"},
        {"op": "add", "path": "/list/7", "value": 1},
        {"op": "add", "path": "/list/x", "value": 1},
        {"op": "frobnicate", "path": "/a"},
        {"op": "add", "path": "a", "value": 1},
        {"path": "/a"},
        "remove",
    ],
)
def test_a_json_patch_that_can_not_be_applied_is_refused_whole(operation: Any) -> None:
    with pytest.raises(StatusError) as caught:
        json_patch({"a": 1, "list": []}, [{"op": "add", "path": "/b", "value": 1}, operation])
    assert caught.value.code == 422


@pytest.mark.parametrize(
    ("kind", "patch", "code"),
    [
        (JSON_PATCH, {}, 400),
        (MERGE, [], 400),
        (STRATEGIC, "x", 400),
        ("application/apply-patch+yaml", {}, 415),
    ],
)
def test_a_patch_that_does_not_fit_its_content_type_is_refused(kind: str, patch: Any, code: int) -> None:
    with pytest.raises(StatusError) as caught:
        apply_patch(kind, {}, patch)
    assert caught.value.code == code


POD = {
    "metadata": {"name": "p", "namespace": "n", "labels": {"app": "web", "tier": "a"}},
    "spec": {"nodeName": "pi-1"},
    "status": {"phase": "Running"},
}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("", True), ("app=web", True), ("app==web,tier=a", True), ("app=web,tier=b", False),
        ("app!=web", False), ("other!=x", True),
        ("app", True), ("!app", False), ("!other", True), ("app in (web, db)", True),
        ("app notin (web,db)", False), ("other notin (x)", True), ("tier in (b),app=web", False),
    ],
)  # fmt: skip
def test_label_selectors_select(selector: str, expected: bool) -> None:
    assert label_selector(selector)(POD) is expected


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("spec.nodeName=pi-1", True), ("spec.nodeName=pi-2", False), ("spec.nodeName!=pi-2", True),
        ("status.phase=Running,metadata.namespace=n", True), ("metadata.name=q", False), ("type=", True),
        ("spec.unschedulable=false", True),
    ],
)  # fmt: skip
def test_field_selectors_select(selector: str, expected: bool) -> None:
    assert field_selector(selector)(POD) is expected


@pytest.mark.parametrize("text", ["app near (web)", "=x", "a b", "app in web", ",", "app in (x"])
def test_a_label_selector_that_can_not_be_read_is_refused(text: str) -> None:
    with pytest.raises(StatusError) as caught:
        label_selector(text)
    assert caught.value.code == 400


def test_a_field_that_nothing_is_selected_by_is_refused() -> None:
    with pytest.raises(StatusError, match=r"field label not supported: spec\.x=1"):
        field_selector("spec.x=1")


def test_selectors_inside_objects_select() -> None:
    labels = {"app": "web"}
    assert matches_label_selector({}, labels)
    assert matches_label_selector({"matchLabels": {"app": "web"}}, labels)
    assert not matches_label_selector({"matchLabels": {"app": "db"}}, labels)
    for operator, values, expected in (
        ("In", ["web"], True), ("NotIn", ["web"], False),
        ("Exists", None, True), ("DoesNotExist", None, False),
    ):  # fmt: skip
        expression = {"key": "app", "operator": operator, "values": values}
        assert matches_label_selector({"matchExpressions": [expression]}, labels) is expected
