"""What a drain and a watch meet at the API: budgets, preconditions, grace, roles, streams of changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.k3s_sim.node.auth import Authenticator
from lab.k3s_sim.node.cluster import Cluster
from lab.k3s_sim.node.datastore import FileDatastore
from lab.k3s_sim.node.errors import StatusError
from lab.k3s_sim.node.kube_api import KubeApi
from lab.k3s_sim.node.messages import Peer, Request, Response

ADMIN = Peer("system:admin", ("system:masters",), "")
CONTROL = Peer("bramble-control", ("bramble",), "")
PODS = "/api/v1/namespaces/default/pods"
MERGE = (("content-type", "application/merge-patch+json"),)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    made = Cluster(FileDatastore(tmp_path / "sim.json"))
    made.prepare()
    return made


@pytest.fixture
def api(cluster: Cluster) -> KubeApi:
    return KubeApi(cluster, Authenticator({}, lambda _: None, "proxy"), "v1.33.5+k3s1")


def ask(api: KubeApi, method: str, path: str, body: object = None, peer: Peer = ADMIN) -> Response:
    path, _, query = path.partition("?")
    content = b"" if body is None else json.dumps(body).encode()
    return api.handle(Request(method, path, query, MERGE, content, peer))


def refusal(api: KubeApi, method: str, path: str, body: object = None, peer: Peer = ADMIN) -> StatusError:
    with pytest.raises(StatusError) as caught:
        ask(api, method, path, body, peer)
    return caught.value


def make_pod(api: KubeApi, name: str, app: str = "web", **spec: Any) -> str:
    pod = {"metadata": {"name": name, "labels": {"app": app}}, "spec": {"nodeName": "pi-1", **spec}}
    return str(json.loads(ask(api, "POST", PODS, pod).body)["metadata"]["uid"])


def make_budget(api: KubeApi, name: str, **rule: Any) -> None:
    spec = {"selector": {"matchLabels": {"app": "web"}}, **rule}
    path = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    ask(api, "POST", path, {"metadata": {"name": name}, "spec": spec})


def eviction(name: str, **options: Any) -> dict[str, Any]:
    return {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name},
        "deleteOptions": options,
    }


def test_an_evicted_pod_ends_after_its_grace(api: KubeApi, cluster: Cluster) -> None:
    make_pod(api, "p", terminationGracePeriodSeconds=7)
    assert ask(api, "POST", f"{PODS}/p/eviction", eviction("p")).status == 201
    metadata = cluster.get("pods", "default", "p")["metadata"]
    assert (metadata["deletionGracePeriodSeconds"], "deletionTimestamp" in metadata) == (7, True)
    ask(api, "DELETE", f"{PODS}/p?gracePeriodSeconds=0")
    assert cluster.find("pods", "default", "p") is None


def test_an_eviction_of_a_pod_that_came_back_under_its_name_is_refused(api: KubeApi) -> None:
    make_pod(api, "p")
    error = refusal(api, "POST", f"{PODS}/p/eviction", eviction("p", preconditions={"uid": "older"}))
    assert (error.code, error.reason) == (409, "Conflict")
    assert refusal(api, "POST", f"{PODS}/gone/eviction", eviction("gone")).code == 404
    assert refusal(api, "POST", f"{PODS}/p/eviction", eviction("other")).code == 400


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        ({"minAvailable": 2}, False),
        ({"minAvailable": 1}, True),
        ({"minAvailable": "100%"}, False),
        ({"minAvailable": "50%"}, True),
        ({"maxUnavailable": 0}, False),
        ({"maxUnavailable": 1}, True),
        ({"maxUnavailable": "50%"}, True),
    ],
)
def test_a_budget_allows_as_many_as_it_says(api: KubeApi, rule: dict[str, Any], allowed: bool) -> None:
    for name in ("p", "q"):
        make_pod(api, name)
    make_pod(api, "other", "db")
    make_budget(api, "web", **rule)
    if allowed:
        assert ask(api, "POST", f"{PODS}/p/eviction", eviction("p")).status == 201
        error = refusal(api, "POST", f"{PODS}/q/eviction", eviction("q"))
    else:
        error = refusal(api, "POST", f"{PODS}/p/eviction", eviction("p"))
    assert error.code == 429
    assert error.message == "Cannot evict pod as it would violate the pod's disruption budget."
    assert error.details is not None
    assert "The disruption budget web needs" in str(error.details["causes"])
    assert ask(api, "POST", f"{PODS}/other/eviction", eviction("other")).status == 201


def test_two_budgets_for_one_pod_need_a_human(api: KubeApi) -> None:
    make_pod(api, "p")
    make_budget(api, "one", minAvailable=0)
    make_budget(api, "two", minAvailable=0)
    error = refusal(api, "POST", f"{PODS}/p/eviction", eviction("p"))
    assert (error.code, "more than one PodDisruptionBudget" in error.message) == (500, True)


def test_a_finished_pod_is_evicted_whatever_its_budget(api: KubeApi) -> None:
    make_pod(api, "p")
    make_budget(api, "web", minAvailable=1)
    ask(api, "PATCH", f"{PODS}/p/status", {"status": {"phase": "Succeeded"}})
    assert ask(api, "POST", f"{PODS}/p/eviction", eviction("p")).status == 201


def test_pods_are_listed_by_node(api: KubeApi) -> None:
    make_pod(api, "here")
    make_pod(api, "there", nodeName="pi-2")
    items = json.loads(ask(api, "GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dpi-1").body)["items"]
    assert [item["metadata"]["name"] for item in items] == ["here"]


def test_a_status_is_changed_by_its_own_path_only(api: KubeApi, cluster: Cluster) -> None:
    ask(api, "POST", "/api/v1/nodes", {"metadata": {"name": "pi-1"}, "status": {"a": 1}})
    ask(api, "PATCH", "/api/v1/nodes/pi-1", {"status": {"a": 2}, "spec": {"unschedulable": True}})
    ask(api, "PATCH", "/api/v1/nodes/pi-1/status", {"status": {"b": 3}, "spec": {"unschedulable": False}})
    node = cluster.get("nodes", "", "pi-1")
    assert (node["status"], node["spec"]) == ({"a": 1, "b": 3}, {"unschedulable": True})


RULES = [
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch", "patch", "delete"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    {"apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"]},
]
SECRET_RULES = [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"], "verbs": ["get"]}]


def grant(api: KubeApi) -> None:
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    subjects = [{"kind": "User", "name": "bramble-control"}]
    for kind, path, name, rules in (
        ("ClusterRole", f"{rbac}/cluster", "bramble", RULES),
        ("Role", f"{rbac}/namespaces/kube-system/", "bramble-secrets", SECRET_RULES),
    ):
        ask(api, "POST", f"{path}roles", {"metadata": {"name": name}, "rules": rules})
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
        binding = {"metadata": {"name": name}, "subjects": subjects, "roleRef": reference}
        ask(api, "POST", f"{path}rolebindings", binding)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/api/v1/nodes", True),
        ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dpi-1", True),
        ("GET", f"{PODS}/p", False),
        ("DELETE", f"{PODS}/p", False),
        ("POST", f"{PODS}/p/eviction", True),
        ("GET", "/api/v1/namespaces/kube-system/secrets/mine", True),
        ("GET", "/api/v1/namespaces/kube-system/secrets/other", False),
        ("GET", "/api/v1/namespaces/kube-system/secrets", False),
        ("GET", "/api/v1/namespaces/default/secrets/mine", False),
        ("GET", "/apis/apps/v1/daemonsets", False),
        ("DELETE", "/api/v1/nodes/pi-1", True),
    ],
)
def test_a_client_may_do_what_its_roles_say_and_nothing_else(
    api: KubeApi, cluster: Cluster, method: str, path: str, allowed: bool
) -> None:
    for namespace, name in (("kube-system", "mine"), ("kube-system", "other"), ("default", "mine")):
        cluster.create("secrets", namespace, {"metadata": {"name": name}})
    cluster.create("nodes", "", {"metadata": {"name": "pi-1"}})
    make_pod(api, "p")
    body = eviction("p") if path.endswith("eviction") else None
    assert refusal(api, method, path, body, CONTROL).code == 403
    grant(api)
    if allowed:
        assert ask(api, method, path, body, CONTROL).status in (200, 201)
    else:
        assert refusal(api, method, path, body, CONTROL).code == 403


def lines(response: Response) -> Iterator[dict[str, Any]]:
    assert response.stream is not None
    return (json.loads(line) for line in response.stream)


def test_a_watch_begins_with_what_there_is_or_after_a_version(api: KubeApi) -> None:
    ask(api, "POST", "/api/v1/nodes", {"metadata": {"name": "pi-1"}})
    everything = lines(ask(api, "GET", "/api/v1/nodes?watch=true&timeoutSeconds=5"))
    assert next(everything)["object"]["metadata"]["name"] == "pi-1"
    version = json.loads(ask(api, "GET", "/api/v1/nodes").body)["metadata"]["resourceVersion"]
    later = lines(ask(api, "GET", f"/api/v1/nodes?watch=1&timeoutSeconds=5&resourceVersion={version}"))
    ask(api, "DELETE", "/api/v1/nodes/pi-1")
    for stream in (everything, later):
        event = next(stream)
        assert (event["type"], event["object"]["metadata"]["name"]) == ("DELETED", "pi-1")


def test_a_watch_with_a_selector_reports_what_stops_matching_as_deleted(api: KubeApi) -> None:
    ask(api, "POST", "/api/v1/nodes", {"metadata": {"name": "pi-1", "labels": {"rack": "a"}}})
    stream = lines(ask(api, "GET", "/api/v1/nodes?watch=true&timeoutSeconds=5&labelSelector=rack%3Da"))
    assert next(stream)["type"] == "ADDED"
    ask(api, "POST", "/api/v1/nodes", {"metadata": {"name": "unseen"}})
    for label, kind in (("b", "DELETED"), ("a", "MODIFIED")):
        ask(api, "PATCH", "/api/v1/nodes/pi-1", {"metadata": {"labels": {"rack": label}}})
        event = next(stream)
        assert (event["type"], event["object"]["metadata"]["name"]) == (kind, "pi-1")


def test_a_watch_from_before_the_history_says_410(api: KubeApi, cluster: Cluster, tmp_path: Path) -> None:
    cluster.create("nodes", "", {"metadata": {"name": "pi-1"}})
    again = KubeApi(Cluster(FileDatastore(tmp_path / "sim.json")), api.authenticator, api.version)
    event = next(lines(ask(again, "GET", "/api/v1/nodes?watch=true&resourceVersion=1")))
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")


def test_lists_come_in_pages(api: KubeApi) -> None:
    for number in range(5):
        ask(api, "POST", "/api/v1/nodes", {"metadata": {"name": f"pi-{number}"}})
    names: list[str] = []
    query = "limit=2"
    for _ in range(3):
        page = json.loads(ask(api, "GET", f"/api/v1/nodes?{query}").body)
        names += [item["metadata"]["name"] for item in page["items"]]
        query = f"limit=2&continue={page['metadata'].get('continue', '')}"
    assert names == [f"pi-{number}" for number in range(5)]
    assert "continue" not in page["metadata"]


def test_discovery_names_every_kind_and_the_eviction(api: KubeApi) -> None:
    groups = {item["name"] for item in json.loads(ask(api, "GET", "/apis").body)["groups"]}
    assert {"apps", "policy", "coordination.k8s.io", "rbac.authorization.k8s.io"} <= groups
    core = json.loads(ask(api, "GET", "/api/v1").body)["resources"]
    listed = {item["name"]: item for item in core}
    assert listed["pods/eviction"]["group"] == "policy"
    assert listed["nodes"]["namespaced"] is False
    assert json.loads(ask(api, "GET", "/version").body)["minor"] == "33"


def test_protobuf_is_refused_by_its_name(api: KubeApi) -> None:
    headers = (("content-type", "application/vnd.kubernetes.protobuf"),)
    with pytest.raises(StatusError, match="this server reads JSON") as caught:
        api.handle(Request("POST", "/api/v1/nodes", "", headers, b"k8s\0", ADMIN))
    assert caught.value.code == 415


def test_a_server_is_not_ready_before_the_cluster_has_its_namespaces(tmp_path: Path) -> None:
    empty = Cluster(FileDatastore(tmp_path / "empty.json"))
    api = KubeApi(empty, Authenticator({}, lambda _: None, "proxy"), "v1.33.5+k3s1")
    assert ask(api, "GET", "/readyz").status == 500
    empty.prepare()
    assert ask(api, "GET", "/readyz").status == 200
