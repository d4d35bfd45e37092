"""The contract of taking a node out: cordon, evictions and their refusals, deletion, watches.

Every test runs against the simulator, and with `make test-k3s K3S=DIR` against the real API server in DIR.
Nodes are objects without a kubelet behind them.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Mapping
from typing import Any

import pytest
from k3s_hosts import PORT, Hosts
from k3s_objects import JSON, NAMESPACE, PODS, make_budget, make_node, make_pod
from k3s_sim_processes import Admin, wait_until

from fleet.health.conditions import Condition
from fleet.health.desk import Held
from fleet.kube.node_conditions import REPEAT_S, Announcer

pytestmark = pytest.mark.integration


def evict(hosts: Hosts, name: str, uid: str = "") -> tuple[int, Any]:
    options = {"preconditions": {"uid": uid}} if uid else {}
    body = {
        "apiVersion": hosts.release.eviction_version,
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "deleteOptions": options,
    }
    return hosts.api().call("POST", f"{PODS}/{name}/eviction", body, JSON)


def test_a_cordon_is_a_merge_patch(hosts: Hosts) -> None:
    make_node(hosts, "cordoned")
    patch = {"spec": {"unschedulable": True}, "metadata": {"annotations": {"bramble.dev/cordon": "7"}}}
    status, node = hosts.api().call("PATCH", "/api/v1/nodes/cordoned", patch)
    assert (status, node["spec"]["unschedulable"]) == (200, True)

    def taints() -> set[str]:
        found = hosts.api().call("GET", "/api/v1/nodes/cordoned")[1]["spec"].get("taints", [])
        return {taint["key"] for taint in found}

    wait_until(lambda: "node.kubernetes.io/unschedulable" in taints(), "the cordon is a taint")
    hosts.api().call("PATCH", "/api/v1/nodes/cordoned", {"spec": {"unschedulable": None}})
    wait_until(lambda: "node.kubernetes.io/unschedulable" not in taints(), "the taint is gone")


def test_a_status_patch_leaves_the_conditions_of_others(hosts: Hosts) -> None:
    """The patches and the rights are the control server's own, as a node falls ill and recovers."""
    make_node(hosts, "watched")

    def say(api: Admin, patch: Mapping[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/strategic-merge-patch+json"}
        status, node = api.call("PATCH", "/api/v1/nodes/watched/status", patch, headers)
        assert status == 200, node
        return {item["type"]: item for item in node["status"]["conditions"]}

    theirs = {"type": "KernelDeadlock", "status": "False", "reason": "KernelHasNoDeadlock", "message": "fine"}
    say(hosts.api(), {"status": {"conditions": [theirs]}})
    hosts.wait_role()
    announcer, now = Announcer(), time.time()
    held = [
        Held(condition=condition, since=now, evidence="measured")
        for condition in (Condition.UNDER_VOLTAGE, Condition.STORAGE_WEAR)
    ]
    found: dict[str, Any] = {}
    for ill in (held, held[1:], []):
        patch = announcer.due("watched", ill, now)
        assert patch is not None
        found = say(hosts.control(), patch)
        announcer.told("watched", ill, now)
        now += REPEAT_S + 1
        statuses = {name: entry["status"] for name, entry in found.items() if name.startswith(("Pi", "Sto"))}
        kept = {entry.condition.value for entry in ill}
        assert statuses == {one.condition.value: str(one.condition.value in kept) for one in held}
    assert found["KernelDeadlock"]["message"] == "fine"


def test_pods_are_found_by_their_node(hosts: Hosts) -> None:
    make_node(hosts, "full")
    make_node(hosts, "empty")
    make_pod(hosts, "found", "full", "lone")
    query = "/api/v1/pods?fieldSelector=spec.nodeName%3D"
    items = hosts.api().call("GET", f"{query}full")[1]["items"]
    assert [item["metadata"]["name"] for item in items] == ["found"]
    assert hosts.api().call("GET", f"{query}empty")[1]["items"] == []


def test_an_eviction_is_granted_refused_by_a_budget_and_undecided_with_two(hosts: Hosts) -> None:
    make_node(hosts, "drained")
    uid = make_pod(hosts, "free", "drained", "free")
    status, refusal = evict(hosts, "free", "00000000-0000-0000-0000-000000000000")
    assert (status, refusal["reason"]) == (409, "Conflict")
    assert evict(hosts, "free", uid)[0] == 201
    assert evict(hosts, "absent")[0] == 404

    make_budget(hosts, "guarding", "guarded", 1)
    make_pod(hosts, "guarded", "drained", "guarded")
    status, refusal = evict(hosts, "guarded")
    assert (status, refusal["reason"]) == (429, "TooManyRequests")
    assert "Cannot evict pod" in refusal["message"]

    make_budget(hosts, "one", "twice", 0)
    make_budget(hosts, "two", "twice", 0)
    make_pod(hosts, "twice", "drained", "twice")
    status, refusal = evict(hosts, "twice")
    assert status == 500
    assert "more than one PodDisruptionBudget" in refusal["message"]


def test_a_node_is_deleted_by_its_uid_or_not_at_all(hosts: Hosts) -> None:
    uid = make_node(hosts, "reborn")
    options = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}}
    assert hosts.api().call("DELETE", "/api/v1/nodes/reborn", options, JSON)[0] == 200
    wait_until(lambda: hosts.api().call("GET", "/api/v1/nodes/reborn")[0] == 404, "it is gone", 60)
    make_node(hosts, "reborn")
    status, refusal = hosts.api().call("DELETE", "/api/v1/nodes/reborn", options, JSON)
    assert (status, refusal["reason"]) == (409, "Conflict")
    assert "does not match the UID in record" in refusal["message"]


def test_a_stale_version_is_refused(hosts: Hosts) -> None:
    make_node(hosts, "contended")
    node = hosts.api().call("GET", "/api/v1/nodes/contended")[1]
    patch = {"metadata": {"labels": {"by": "somebody"}}}
    assert hosts.api().call("PATCH", "/api/v1/nodes/contended", patch)[0] == 200
    version = node["metadata"]["resourceVersion"]
    stale = {"metadata": {"resourceVersion": version, "labels": {"by": "us"}}}
    status, refusal = hosts.api().call("PATCH", "/api/v1/nodes/contended", stale)
    assert (status, refusal["reason"]) == (409, "Conflict")
    assert "the object has been modified" in refusal["message"]


def test_a_watch_tells_what_happened_after_a_version(hosts: Hosts) -> None:
    make_node(hosts, "seen")
    version = hosts.api().call("GET", "/api/v1/nodes")[1]["metadata"]["resourceVersion"]
    hosts.api().call("PATCH", "/api/v1/nodes/seen", {"metadata": {"labels": {"rack": "7"}}})
    api = hosts.api()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(api.ca)
    assert api.certificate is not None
    context.load_cert_chain(api.certificate, api.key)
    query = f"watch=true&resourceVersion={version}&timeoutSeconds=30&fieldSelector=metadata.name%3Dseen"
    with context.wrap_socket(hosts.fabric.dial(api.host, PORT), server_hostname=api.host) as channel:
        request = f"GET /api/v1/nodes?{query} HTTP/1.0\r\nHost: {api.host}\r\n\r\n"
        channel.sendall(request.encode())
        channel.settimeout(60)
        received = b""
        # Others may change the node too, and be told first.
        while not (lines := [line for line in received.split(b"\n")[:-1] if b'"rack"' in line]):
            part = channel.recv(65536)
            assert part, f"the watch ended: {received!r}"
            received += part
    event = json.loads(lines[0])
    assert event["object"]["metadata"]["labels"]["rack"] == "7"
    assert (event["type"], event["object"]["metadata"]["name"]) == ("MODIFIED", "seen")
