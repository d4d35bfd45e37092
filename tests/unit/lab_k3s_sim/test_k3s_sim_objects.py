"""The rules of the API's objects: versions, preconditions, finalizers, heartbeats, watches, restarts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.k3s_sim.node.cluster import LEASE_NAMESPACE, Cluster
from lab.k3s_sim.node.datastore import Change, ExpiredError, FileDatastore
from lab.k3s_sim.node.errors import K3sError, StatusError
from lab.k3s_sim.node.node_object import render_conditions
from lab.k3s_sim.node.objects import Object
from lab.k3s_sim.node.patches import strategic_patch

NOW = 1_800_000_000.0
NODE = {"metadata": {"name": "pi-1"}, "status": {"conditions": render_conditions(NOW, NOW)}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sim.json"


@pytest.fixture
def cluster(file: Path) -> Cluster:
    made = Cluster(FileDatastore(file), lambda: NOW)
    made.prepare()
    return made


def version(cluster: Cluster) -> int:
    return cluster.list("nodes", "")[1]


def test_a_created_node_has_identity_and_version(cluster: Cluster) -> None:
    created = cluster.create("nodes", "", NODE)
    metadata = created["metadata"]
    assert (created["kind"], created["apiVersion"]) == ("Node", "v1")
    assert metadata["creationTimestamp"] == "2027-01-15T08:00:00Z"
    assert metadata["uid"]
    assert int(metadata["resourceVersion"]) == version(cluster)


def test_a_name_is_given_once(cluster: Cluster) -> None:
    cluster.create("nodes", "", NODE)
    with pytest.raises(StatusError) as caught:
        cluster.create("nodes", "", NODE)
    assert (caught.value.code, caught.value.reason) == (409, "AlreadyExists")


def test_an_update_keeps_the_identity_and_moves_the_version(cluster: Cluster) -> None:
    before = cluster.create("nodes", "", NODE)["metadata"]
    given = {"metadata": {"name": "other", "uid": "", "labels": {"a": "1"}}, "spec": {"unschedulable": True}}
    after = cluster.update("nodes", "", "pi-1", lambda _: given)
    assert after["metadata"]["name"] == "pi-1"
    assert after["metadata"]["uid"] == before["uid"]
    assert after["spec"] == {"unschedulable": True}
    assert int(after["metadata"]["resourceVersion"]) > int(before["resourceVersion"])


def test_an_update_that_changes_nothing_keeps_the_version(cluster: Cluster) -> None:
    before = cluster.get("namespaces", "", "default")
    assert cluster.update("namespaces", "", "default", lambda current: current) == before


@pytest.mark.parametrize("metadata", [{"uid": "another"}, {"resourceVersion": "1"}])
def test_a_stale_writer_is_refused(cluster: Cluster, metadata: dict[str, str]) -> None:
    cluster.create("nodes", "", NODE)
    attempts: list[Callable[[], object]] = [
        lambda: cluster.replace("nodes", "", "pi-1", {"metadata": metadata}),
        lambda: cluster.delete("nodes", "", "pi-1", metadata),
    ]
    for attempt in attempts:
        with pytest.raises(StatusError) as caught:
            attempt()
        assert caught.value.code == 409
    assert cluster.find("nodes", "", "pi-1") is not None


def test_a_node_that_came_back_under_its_name_is_not_deleted_by_an_old_uid(cluster: Cluster) -> None:
    old = cluster.create("nodes", "", NODE)["metadata"]["uid"]
    cluster.delete("nodes", "", "pi-1", {"uid": old})
    cluster.create("nodes", "", NODE)
    with pytest.raises(StatusError, match="does not match the UID in record"):
        cluster.delete("nodes", "", "pi-1", {"uid": old})


def test_a_writer_who_was_overtaken_sees_the_change_and_repeats(cluster: Cluster) -> None:
    cluster.create("configmaps", "default", {"metadata": {"name": "c"}, "data": {"n": 0}})
    overtaken: list[bool] = []

    def count(current: Object) -> Object:
        if not overtaken:
            overtaken.append(True)
            cluster.update("configmaps", "default", "c", lambda item: {**item, "data": {"n": 41}})
        return {**current, "data": {"n": current["data"]["n"] + 1}}

    assert cluster.update("configmaps", "default", "c", count)["data"] == {"n": 42}


def test_a_finalizer_keeps_a_deleted_object_until_it_is_taken_off(cluster: Cluster) -> None:
    given = {**NODE, "metadata": {"name": "pi-1", "finalizers": ["a/b"]}}
    uid = cluster.create("nodes", "", given)["metadata"]["uid"]
    marked = cluster.delete("nodes", "", "pi-1", {"uid": uid})
    assert marked["metadata"]["deletionTimestamp"]
    assert cluster.delete("nodes", "", "pi-1") == cluster.get("nodes", "", "pi-1")
    released = {"metadata": {"finalizers": None}}
    cluster.update("nodes", "", "pi-1", lambda node: strategic_patch(node, released))
    assert cluster.find("nodes", "", "pi-1") is None


def test_a_heartbeat_renews_the_lease_and_is_no_new_version_of_the_node(cluster: Cluster) -> None:
    cluster.create("nodes", "", NODE)
    before = cluster.get("nodes", "", "pi-1")
    status = {"status": {"conditions": render_conditions(NOW + 10, NOW)}}
    assert cluster.heartbeat("pi-1", lambda node: strategic_patch(node, status)) == before
    lease = cluster.get("leases", LEASE_NAMESPACE, "pi-1")
    assert lease["spec"]["renewTime"] == "2027-01-15T08:00:00Z"
    assert lease["metadata"]["ownerReferences"][0]["uid"] == before["metadata"]["uid"]


def test_a_heartbeat_of_a_deleted_node_is_not_found(cluster: Cluster) -> None:
    with pytest.raises(StatusError, match='nodes "pi-1" not found'):
        cluster.heartbeat("pi-1", lambda node: node)
    assert cluster.find("leases", LEASE_NAMESPACE, "pi-1") is None


def test_a_restart_keeps_everything(cluster: Cluster, file: Path) -> None:
    cluster.create("nodes", "", NODE)
    again = Cluster(FileDatastore(file))
    assert again.get("nodes", "", "pi-1") == cluster.get("nodes", "", "pi-1")
    assert version(again) == version(cluster)
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("content", "says"),
    [("{", "is damaged"), ('{"format": 9}', "not of format 2"), ("[]", "not of format 2")],
)
def test_a_bad_database_is_named(file: Path, content: str, says: str) -> None:
    file.write_text(content)
    with pytest.raises(K3sError, match=says):
        FileDatastore(file)


def test_a_full_disk_refuses_the_change_and_forgets_it(
    cluster: Cluster, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lab.k3s_sim.node.datastore.write_atomically", full)
    with pytest.raises(StatusError, match="No space left on device"):
        cluster.create("nodes", "", NODE)
    assert cluster.find("nodes", "", "pi-1") is None
    monkeypatch.undo()
    assert cluster.create("nodes", "", NODE)
    assert Cluster(FileDatastore(file)).find("nodes", "", "pi-1")


def test_callers_get_copies(cluster: Cluster) -> None:
    cluster.create("nodes", "", NODE)
    cluster.get("nodes", "", "pi-1")["metadata"]["labels"] = {"changed": "1"}
    assert "labels" not in cluster.get("nodes", "", "pi-1")["metadata"]


def seen(changes: list[Change]) -> list[tuple[str, str, int]]:
    return [(change.kind, change.key[2], change.stored.version) for change in changes]


def test_a_watch_tells_what_happened_after_its_version_and_no_more(cluster: Cluster) -> None:
    cluster.create("nodes", "", NODE)
    since = version(cluster)
    cluster.create("nodes", "", {"metadata": {"name": "pi-2"}})
    cluster.create("secrets", "default", {"metadata": {"name": "unseen"}})
    cluster.update("nodes", "", "pi-1", lambda node: {**node, "spec": {"unschedulable": True}})
    cluster.delete("nodes", "", "pi-2")
    changes = list(cluster.changes("nodes", "", since, 0.0))
    assert seen(changes) == [
        ("ADDED", "pi-2", since + 1),
        ("MODIFIED", "pi-1", since + 3),
        ("DELETED", "pi-2", since + 4),
    ]
    assert changes[-1].stored.labelled()["metadata"]["resourceVersion"] == str(since + 4)
    assert list(cluster.changes("nodes", "", version(cluster), 0.0)) == []


def test_a_watch_from_before_the_history_has_expired(cluster: Cluster, file: Path) -> None:
    cluster.create("nodes", "", NODE)
    again = Cluster(FileDatastore(file))
    with pytest.raises(ExpiredError):
        list(again.changes("nodes", "", 1, 0.0))
