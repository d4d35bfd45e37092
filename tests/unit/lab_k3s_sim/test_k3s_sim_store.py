"""The store: versions, preconditions, heartbeats, background controllers; time comes as an argument."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from lab.k3s_sim.node.errors import StatusError
from lab.k3s_sim.node.node_object import render_conditions
from lab.k3s_sim.node.node_password import SECRET_TYPE
from lab.k3s_sim.node.store import HEARTBEAT_LIMIT_S, ORPHAN_AGE_S, SYSTEM_NAMESPACE, Store, merge_patch

NOW = 1_800_000_000.0
NODE = {"metadata": {"name": "pi-1"}, "status": {"conditions": render_conditions(NOW, NOW)}}
PASSWORD = {"metadata": {"name": "pi-1.node-password.k3s"}, "type": SECRET_TYPE}


@pytest.fixture
def store() -> Store:
    return Store(NOW, 0.0)


def ready(store: Store, name: str = "pi-1") -> str:
    conditions = store.get("nodes", "", name)["status"]["conditions"]
    return next(str(item["status"]) for item in conditions if item["type"] == "Ready")


def test_a_created_node_has_identity_and_version(store: Store) -> None:
    created = store.create("nodes", "", NODE, NOW, 0.0)
    metadata = created["metadata"]
    assert (created["kind"], created["apiVersion"]) == ("Node", "v1")
    assert metadata["creationTimestamp"] == "2027-01-15T08:00:00Z"
    assert metadata["uid"]
    assert int(metadata["resourceVersion"]) == store.revision


def test_a_name_is_given_once(store: Store) -> None:
    store.create("nodes", "", NODE, NOW, 0.0)
    with pytest.raises(StatusError) as caught:
        store.create("nodes", "", NODE, NOW, 0.0)
    assert (caught.value.code, caught.value.reason) == (409, "AlreadyExists")


def test_a_merge_patch_follows_rfc_7386() -> None:
    target: dict[str, Any] = {"a": "b", "c": {"d": "e", "f": "g"}, "l": [1]}
    patch: dict[str, Any] = {"a": "z", "c": {"f": None}, "l": [2], "n": {"x": None, "y": 1}}
    assert merge_patch(target, patch) == {"a": "z", "c": {"d": "e"}, "l": [2], "n": {"y": 1}}
    assert target["c"] == {"d": "e", "f": "g"}


def test_a_patch_keeps_the_identity_and_moves_the_version(store: Store) -> None:
    before = store.create("nodes", "", NODE, NOW, 0.0)["metadata"]
    patch = {"metadata": {"name": "other", "labels": {"a": "1"}}, "spec": {"unschedulable": True}}
    after = store.patch("nodes", "", "pi-1", patch)
    assert after["metadata"]["name"] == "pi-1"
    assert after["metadata"]["uid"] == before["uid"]
    assert after["spec"] == {"unschedulable": True}
    assert int(after["metadata"]["resourceVersion"]) > int(before["resourceVersion"])


def test_a_patch_that_changes_nothing_keeps_the_version(store: Store) -> None:
    before = store.patch("namespaces", "", "default", {})
    assert store.patch("namespaces", "", "default", {"status": {"phase": "Active"}}) == before


@pytest.mark.parametrize("metadata", [{"uid": "another"}, {"resourceVersion": "1"}])
def test_a_stale_writer_is_refused(store: Store, metadata: dict[str, str]) -> None:
    store.create("nodes", "", NODE, NOW, 0.0)
    attempts: list[Callable[[], object]] = [
        lambda: store.patch("nodes", "", "pi-1", {"metadata": metadata}),
        lambda: store.replace("nodes", "", "pi-1", {"metadata": metadata}),
        lambda: store.delete("nodes", "", "pi-1", metadata),
    ]
    for attempt in attempts:
        with pytest.raises(StatusError) as caught:
            attempt()
        assert caught.value.code == 409
    assert store.find("nodes", "", "pi-1") is not None


def test_a_node_that_came_back_under_its_name_is_not_deleted_by_an_old_uid(store: Store) -> None:
    old = store.create("nodes", "", NODE, NOW, 0.0)["metadata"]["uid"]
    store.delete("nodes", "", "pi-1", {"uid": old})
    store.create("nodes", "", NODE, NOW, 0.0)
    with pytest.raises(StatusError, match="UID in precondition"):
        store.delete("nodes", "", "pi-1", {"uid": old})


def test_silence_makes_a_node_unknown_and_a_heartbeat_ready_again(store: Store) -> None:
    store.create("nodes", "", NODE, NOW, 100.0)
    store.tick(NOW, 100.0 + HEARTBEAT_LIMIT_S)
    assert ready(store) == "True"
    store.tick(NOW + 41, 100.1 + HEARTBEAT_LIMIT_S)
    assert ready(store) == "Unknown"
    status = {"status": {"conditions": render_conditions(NOW + 60, NOW + 60)}}
    store.heartbeat("pi-1", status, 160.0)
    store.tick(NOW + 61, 161.0)
    assert ready(store) == "True"


def test_a_heartbeat_alone_is_no_new_version(store: Store) -> None:
    store.create("nodes", "", NODE, NOW, 0.0)
    revision = store.revision
    status = {"status": {"conditions": render_conditions(NOW + 10, NOW)}}
    reported = store.heartbeat("pi-1", status, 10.0)
    assert store.revision == revision
    assert reported["status"]["conditions"][0]["lastHeartbeatTime"] == "2027-01-15T08:00:10Z"


def test_a_heartbeat_of_a_deleted_node_is_not_found(store: Store) -> None:
    with pytest.raises(StatusError, match='nodes "pi-1" not found'):
        store.heartbeat("pi-1", {}, 0.0)


def test_the_password_of_a_deleted_node_goes_in_the_background(store: Store) -> None:
    store.create("nodes", "", NODE, NOW, 0.0)
    store.create("secrets", SYSTEM_NAMESPACE, PASSWORD, NOW, 0.0)
    store.delete("nodes", "", "pi-1", {})
    assert store.find("secrets", SYSTEM_NAMESPACE, "pi-1.node-password.k3s") is not None
    store.tick(NOW, 0.0)
    assert store.find("secrets", SYSTEM_NAMESPACE, "pi-1.node-password.k3s") is None


def test_a_password_made_before_its_node_lives_ten_minutes(store: Store) -> None:
    store.create("secrets", SYSTEM_NAMESPACE, PASSWORD, NOW, 0.0)
    store.tick(NOW + ORPHAN_AGE_S, 0.0)
    assert store.find("secrets", SYSTEM_NAMESPACE, "pi-1.node-password.k3s") is not None
    store.tick(NOW + ORPHAN_AGE_S + 1, 0.0)
    assert store.find("secrets", SYSTEM_NAMESPACE, "pi-1.node-password.k3s") is None


def test_a_restart_keeps_everything_and_gives_every_node_time_to_report(store: Store) -> None:
    store.create("nodes", "", NODE, NOW, 0.0)
    saved = json.loads(json.dumps(store.snapshot()))
    restored = Store.restore(saved, NOW + 3600, 5000.0)
    assert restored.snapshot() == store.snapshot()
    restored.tick(NOW + 3600, 5000.0 + HEARTBEAT_LIMIT_S)
    assert ready(restored) == "True"
    restored.tick(NOW + 3700, 5000.1 + HEARTBEAT_LIMIT_S)
    assert ready(restored) == "Unknown"


def test_callers_get_copies(store: Store) -> None:
    store.create("nodes", "", NODE, NOW, 0.0)
    store.get("nodes", "", "pi-1")["metadata"]["labels"] = {"changed": "1"}
    assert "labels" not in store.get("nodes", "", "pi-1")["metadata"]
