"""kube-vip's objects: who runs it, as what, and what it may do."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

from fakes_fleet import cluster_spec, node_spec

from fleet.join.registration import ServerSeen, choose_server
from fleet.kube.vip import kube_vip_objects
from fleet.spec.model import K3sSpec, KubeVipSpec, Role

PLAIN = cluster_spec(node_spec("s1", 1, role=Role.SERVER)).k3s
WITH_VIP = replace(PLAIN, api_vip=IPv4Address("10.77.0.200"))
VIRTUAL = "https://10.77.0.200:6443"


def by_kind(k3s: K3sSpec) -> dict[str, Any]:
    return {item["kind"]: item for item in kube_vip_objects(k3s)}


def environment(k3s: K3sSpec) -> dict[str, Any]:
    (container,) = by_kind(k3s)["DaemonSet"]["spec"]["template"]["spec"]["containers"]
    return {entry["name"]: entry.get("value") for entry in container["env"]}


def test_nothing_where_no_address_is_declared_or_others_answer_for_it() -> None:
    assert kube_vip_objects(PLAIN) == ()
    assert kube_vip_objects(replace(WITH_VIP, kube_vip=KubeVipSpec(enabled=False))) == ()


def test_it_answers_for_the_api_by_arp_and_for_nothing_else() -> None:
    settings = environment(WITH_VIP)
    assert settings["address"] == "10.77.0.200"
    assert (settings["vip_arp"], settings["cp_enable"], settings["svc_enable"]) == ("true", "true", "false")
    assert "vip_interface" not in settings
    named = replace(WITH_VIP, kube_vip=KubeVipSpec(interface="end0"))
    assert environment(named)["vip_interface"] == "end0"


def test_its_lease_ends_before_clients_give_up_and_after_it_is_renewed() -> None:
    settings = environment(WITH_VIP)
    retry, renew, lease = (
        int(settings[name]) for name in ("vip_retryperiod", "vip_renewdeadline", "vip_leaseduration")
    )
    assert retry < renew < lease <= 30


def test_it_runs_on_servers_only_with_the_rights_of_an_address_and_a_lease() -> None:
    objects = by_kind(WITH_VIP)
    pod = objects["DaemonSet"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"node-role.kubernetes.io/control-plane": "true"}
    assert pod["hostNetwork"] is True
    (container,) = pod["containers"]
    assert container["image"] == KubeVipSpec().image
    assert container["securityContext"]["capabilities"] == {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]}
    resources = {name for rule in objects["ClusterRole"]["rules"] for name in rule["resources"]}
    assert resources == {"nodes", "leases"}
    assert objects["ClusterRoleBinding"]["subjects"][0]["name"] == pod["serviceAccountName"]


def test_address_is_told_only_to_nodes_that_have_somebody_behind_it() -> None:
    alone = [ServerSeen("s1", "https://10.77.0.11:6443", True)]
    assert choose_server("s1", None, alone, VIRTUAL) is None
    assert choose_server("a1", "https://10.77.0.11:6443", alone, VIRTUAL) == VIRTUAL
    away = [ServerSeen("s1", "https://10.77.0.11:6443", False)]
    assert choose_server("a1", "https://10.77.0.11:6443", away, VIRTUAL) == "https://10.77.0.11:6443"
