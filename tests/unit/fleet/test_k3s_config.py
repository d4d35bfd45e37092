"""What a node is handed to join, and how the Kubernetes API's answers are read."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest
import yaml
from fakes_fleet import cluster_spec, node_spec

from fleet.k3s.config import (
    InitialiseCluster,
    JoinServer,
    drop_in,
    keeps_token,
    kept_files,
    kept_settings,
    render_yaml,
    tls_names,
    unit_of,
)
from fleet.k3s.versions import K3sVersion
from fleet.kube.client import parse_node
from fleet.spec.model import NodeSpec, Role, Taint

SERVER = node_spec("pi5-1", 1, role=Role.SERVER)
SECOND = node_spec("pi5-2", 2, role=Role.SERVER)
AGENT = replace(node_spec("pi4-1", 3), taints=(Taint("sd", "yes", "NoSchedule"),))
SPEC = cluster_spec(SERVER, SECOND, AGENT)
JOIN = JoinServer("https://10.77.0.11:6443")
OLD, NEW = K3sVersion(1, 21, 3, 1), K3sVersion(1, 33, 5, 1)


def settings(text: str) -> Any:
    return yaml.safe_load(text)


def test_first_server() -> None:
    got = settings(
        render_yaml(drop_in(SPEC, SERVER, InitialiseCluster(), address="10.77.0.11", with_token=True))
    )
    assert got == {
        "disable": ["traefik"],
        "node-name": "pi5-1",
        "node-ip": "10.77.0.11",
        "token-file": "/etc/rancher/k3s/bramble-token",
        "agent-token-file": "/etc/rancher/k3s/bramble-agent-token",
        "cluster-init": True,
        "tls-san": [
            "10.77.0.11",
            "10.77.0.12",
            "pi5-1",
            "pi5-1.attic.internal",
            "pi5-2",
            "pi5-2.attic.internal",
        ],
    }


def test_first_server_after_ready_has_neither_token_nor_cluster_init() -> None:
    got = drop_in(SPEC, SERVER, InitialiseCluster(), address=None, with_token=False)
    assert not {"token-file", "cluster-init", "server", "node-ip"} & got.keys()
    assert got["agent-token-file"]


def test_agent_gets_labels_and_taints_and_none_of_the_servers_settings() -> None:
    got = drop_in(SPEC, AGENT, JOIN, address="10.77.0.13", with_token=True)
    assert got == {
        "node-name": "pi4-1",
        "node-ip": "10.77.0.13",
        "node-label": ["tier=small"],
        "node-taint": ["sd=yes:NoSchedule"],
        "token-file": "/etc/rancher/k3s/bramble-token",
        "server": "https://10.77.0.11:6443",
    }


def test_agent_keeps_its_server_after_ready() -> None:
    assert drop_in(SPEC, AGENT, JOIN, address=None, with_token=False)["server"] == JOIN.url


def test_settings_that_must_agree_are_equal_on_all_servers() -> None:
    first = drop_in(SPEC, SERVER, InitialiseCluster(), address="10.77.0.11", with_token=True)
    second = drop_in(SPEC, SECOND, JOIN, address="10.77.0.12", with_token=True)
    own = {"node-name", "node-ip", "cluster-init", "server"}
    assert {key: first[key] for key in first.keys() - own} == {
        key: second[key] for key in second.keys() - own
    }


def test_tls_names_join_the_users_own_and_the_virtual_address() -> None:
    k3s = replace(SPEC.k3s, api_vip=IPv4Address("10.77.0.200"), config={"tls-san": ["k3s.example.org"]})
    names = tls_names(replace(SPEC, k3s=k3s))
    assert {"10.77.0.200", "k3s.example.org", "pi5-1"} <= set(names)
    assert names == sorted(names)


def test_agents_bring_no_objects_and_servers_bring_the_same() -> None:
    k3s = replace(SPEC.k3s, api_vip=IPv4Address("10.77.0.200"))
    spec = replace(SPEC, k3s=k3s)
    kept = [
        {
            file.path.rpartition("/")[2]: file.content
            for file in kept_files(spec, node, JOIN.url, address=None, version=NEW)
        }
        for node in (SERVER, SECOND, AGENT)
    ]
    assert [list(files) for files in kept] == [
        ["50-bramble.yaml", "bramble-access.yaml", "bramble-kube-vip.yaml"],
        ["50-bramble.yaml", "bramble-access.yaml", "bramble-kube-vip.yaml"],
        ["50-bramble.yaml"],
    ]
    assert kept[0]["bramble-kube-vip.yaml"] == kept[1]["bramble-kube-vip.yaml"]


@pytest.mark.parametrize(
    ("node", "version", "keeps"),
    [
        (AGENT, OLD, True),
        (AGENT, None, True),
        (AGENT, NEW, False),
        (SERVER, OLD, False),
        (SERVER, NEW, False),
    ],
    ids=["agent of v1.21", "agent of an unknown release", "agent", "server of v1.21", "server"],
)
def test_only_agents_that_could_not_start_without_it_keep_their_token(
    node: NodeSpec, version: K3sVersion | None, keeps: bool
) -> None:
    kept = settings(kept_settings(SPEC, node, JOIN.url, address=None, version=version).content)
    assert keeps_token(node.role, version) is ("token-file" in kept) is keeps
    assert "cluster-init" not in kept


@pytest.mark.parametrize(("role", "unit"), [(Role.SERVER, "k3s.service"), (Role.AGENT, "k3s-agent.service")])
def test_unit(role: Role, unit: str) -> None:
    assert unit_of(role) == unit


@pytest.mark.parametrize(
    ("conditions", "ready", "reason"),
    [
        ([{"type": "Ready", "status": "True"}], True, ""),
        ([{"type": "Ready", "status": "False", "message": "cni missing"}], False, "cni missing"),
        ([{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}], False, "NodeStatusUnknown"),
        ([{"type": "MemoryPressure", "status": "True"}], False, "no Ready condition yet"),
        ([], False, "no Ready condition yet"),
    ],
)
def test_node_object(conditions: list[dict[str, str]], ready: bool, reason: str) -> None:
    item = {
        "metadata": {"name": "pi5-1"},
        "status": {"conditions": conditions, "nodeInfo": {"kubeletVersion": "v1.33.5+k3s1"}},
    }
    node = parse_node(item)
    assert (node.name, node.ready, node.reason, node.version) == ("pi5-1", ready, reason, "v1.33.5+k3s1")
