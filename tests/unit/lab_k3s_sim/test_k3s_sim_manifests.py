"""Manifests: read with types, applied to the cluster, again when they change."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lab.k3s_sim.node.auto_deploy import AutoDeploy
from lab.k3s_sim.node.cluster import Cluster
from lab.k3s_sim.node.datastore import FileDatastore
from lab.k3s_sim.node.yaml_subset import parse_manifests

ROLE = """\
# roles first
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: bramble
rules:
- apiGroups: [""]
  resources:
  - nodes
  verbs: ["get", "list"]
- apiGroups:
    - policy
  resources: [poddisruptionbudgets]
  verbs: ['*']
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: vip, namespace: kube-system}
spec:
  template:
    spec:
      hostNetwork: true
      containers:
      -
        name: vip
        ports:
        - containerPort: 2112
          name: "2112"
---
---
apiVersion: helm.cattle.io/v1
kind: HelmChart
metadata:
  name: traefik
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    made = Cluster(FileDatastore(tmp_path / "sim.json"))
    made.prepare()
    return made


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    (tmp_path / "manifests").mkdir()
    return tmp_path / "manifests"


def test_a_manifest_reads_as_yaml_reads_it() -> None:
    assert parse_manifests(ROLE, "f") == [item for item in yaml.safe_load_all(ROLE) if item]


SCALARS = st.one_of(
    st.text(string.ascii_letters + string.digits + " -:#'\"{}[]&*!|>%@,._~", max_size=12),
    st.integers(-(10**9), 10**9),
    st.booleans(),
    st.none(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.from_regex(r"[a-z]{1,6}", fullmatch=True), inner, max_size=3),
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,6}", fullmatch=True), VALUES, min_size=1, max_size=3))
def test_whatever_pyyaml_writes_comes_back_with_its_types(document: dict[str, Any]) -> None:
    text = yaml.safe_dump(document, default_flow_style=False, width=1 << 16)
    assert parse_manifests(text, "f") == [document]


def test_manifests_are_applied_and_unknown_kinds_passed_over(
    cluster: Cluster, manifests: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (manifests / "bramble.yaml").write_text(ROLE)
    AutoDeploy(manifests, cluster).run()
    assert cluster.get("clusterroles", "", "bramble")["rules"][0]["resources"] == ["nodes"]
    spec = cluster.get("daemonsets", "kube-system", "vip")["spec"]["template"]["spec"]
    assert spec["hostNetwork"] is True
    assert "the simulator has no helm.cattle.io/v1 HelmChart" in capsys.readouterr().err


def test_a_file_that_changes_is_applied_again_and_one_that_goes_undoes_nothing(
    cluster: Cluster, manifests: Path
) -> None:
    deploy = AutoDeploy(manifests, cluster)
    file = manifests / "c.yaml"
    head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"
    file.write_text(head + "data: {a: '1'}\n")
    deploy.run()
    cluster.update("configmaps", "default", "c", lambda item: {**item, "data": {"a": "human"}})
    deploy.run()
    assert cluster.get("configmaps", "default", "c")["data"] == {"a": "human"}
    file.write_text(head + "data: {a: '2', b: longer}\n")
    deploy.run()
    assert cluster.get("configmaps", "default", "c")["data"] == {"a": "2", "b": "longer"}
    file.unlink()
    deploy.run()
    assert cluster.find("configmaps", "default", "c")


def test_a_skip_file_and_a_bad_file_keep_nothing_else_from_being_applied(
    cluster: Cluster, manifests: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {}}}\n"
    (manifests / "a-bad.yaml").write_text("a: |\n  b\n")
    (manifests / "b-skipped.yaml").write_text(good.format("skipped"))
    (manifests / "b-skipped.yaml.skip").touch()
    (manifests / "c-no-namespace.yaml").write_text(good.format("c, namespace: absent"))
    (manifests / "d.yaml").write_text(good.format("d"))
    AutoDeploy(manifests, cluster).run()
    assert [item["metadata"]["name"] for item in cluster.select("configmaps", "default")] == ["d"]
    said = capsys.readouterr().err
    assert "a block scalar is outside the YAML" in said
