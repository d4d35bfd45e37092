"""What servers bring into their cluster: the control server's role, and nothing that it does not need."""

from __future__ import annotations

from typing import Any

import yaml

from fleet.k3s.manifests import access_objects, object_path, render_access

ROLES: dict[str, Any] = {item["kind"]: item for item in access_objects()}


def verbs(kind: str) -> dict[str, set[str]]:
    return {rule["resources"][0]: set(rule["verbs"]) for rule in ROLES[kind]["rules"]}


def test_secrets_are_reached_in_one_namespace_only() -> None:
    assert "secrets" not in verbs("ClusterRole")
    assert ROLES["Role"]["metadata"]["namespace"] == "kube-system"
    assert ROLES["RoleBinding"]["metadata"]["namespace"] == "kube-system"
    assert verbs("Role") == {"secrets": {"get", "list", "create", "delete"}, "leases": {"get", "patch"}}
    assert ROLES["Role"]["rules"][1]["resourceNames"] == ["bramble-api-vip"]


def test_nothing_may_run_a_program_or_give_rights() -> None:
    allowed = verbs("ClusterRole")
    volumes = {"persistentvolumeclaims", "persistentvolumes"}
    assert allowed.keys() == {"nodes", "nodes/status", "pods", "pods/eviction", *volumes}
    assert allowed["pods"] == {"get", "list", "delete"}
    assert all(allowed[kind] == {"get"} for kind in volumes)
    assert not any("*" in given for given in allowed.values())


def test_bindings_name_our_user_and_its_own_role() -> None:
    for kind in ("ClusterRole", "Role"):
        binding = ROLES[f"{kind}Binding"]
        assert binding["roleRef"]["kind"] == kind
        assert binding["roleRef"]["name"] == ROLES[kind]["metadata"]["name"]
        assert [(subject["kind"], subject["name"]) for subject in binding["subjects"]] == [
            ("User", "bramble-control")
        ]


def test_file_holds_these_objects_for_root_only() -> None:
    file = render_access()
    assert file.path == "/var/lib/rancher/k3s/server/manifests/bramble-access.yaml"
    assert file.mode == "0600"
    assert list(yaml.safe_load_all(file.content)) == list(access_objects())


def test_paths_of_the_objects() -> None:
    assert [object_path(item) for item in access_objects()] == [
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles", "bramble-control"),
        ("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", "bramble-control"),
        ("/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/roles", "bramble-control"),
        ("/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/rolebindings", "bramble-control"),
    ]
