"""The Node object, the kubectl table, the command line and the release directory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from lab.k3s_sim.node import cli, kubectl
from lab.k3s_sim.node.errors import K3sError
from lab.k3s_sim.node.node_object import MachineFacts, render_node, require_allowed_labels
from lab.k3s_sim.node.settings import AgentSettings
from lab.k3s_sim.release import build_release

VERSION = "v1.33.5+k3s1"
NOW = 1_800_000_000.0
MACHINE = MachineFacts(
    "arm64", "6.12.1", "Debian GNU/Linux 13 (trixie)", "m1", "b1", 4, 8_000_000, 30_000_000
)
SETTINGS = AgentSettings(
    "pi-1",
    ("10.0.0.1",),
    Path("/data"),
    Path("/node"),
    labels={"rack": "1"},
    taints=("a=b:NoSchedule", "c:NoExecute"),
)


def test_a_node_says_in_three_places_that_it_is_simulated() -> None:
    node = render_node(SETTINGS, MACHINE, VERSION, NOW)
    assert node["metadata"]["labels"]["bramble.dev/simulator"] == "true"
    assert node["metadata"]["annotations"]["bramble.dev/simulator"] == "true"
    assert node["status"]["nodeInfo"]["kubeletVersion"] == "v1.33.5+k3s1-simulator"


def test_a_node_carries_labels_taints_and_addresses() -> None:
    node = render_node(SETTINGS, MACHINE, VERSION, NOW)
    assert node["metadata"]["labels"]["rack"] == "1"
    assert node["spec"]["taints"] == [
        {"key": "a", "value": "b", "effect": "NoSchedule"},
        {"key": "c", "effect": "NoExecute"},
    ]
    assert {"type": "InternalIP", "address": "10.0.0.1"} in node["status"]["addresses"]
    assert {item["type"]: item["status"] for item in node["status"]["conditions"]}["Ready"] == "True"


@pytest.mark.parametrize(
    "label", ["rack", "example.org/x", "node.kubernetes.io/x", "topology.kubernetes.io/zone"]
)
def test_a_kubelet_may_give_itself_these_labels(label: str) -> None:
    require_allowed_labels(replace(SETTINGS, labels={label: "1"}))


@pytest.mark.parametrize("label", ["node-role.kubernetes.io/worker", "kubernetes.io/x", "a.k8s.io/x"])
def test_a_kubelet_may_not_give_itself_these_labels(label: str) -> None:
    with pytest.raises(K3sError) as caught:
        require_allowed_labels(replace(SETTINGS, labels={label: "1", "rack": "2"}))
    assert f"labels specified with --node-labels: [{label}]" in caught.value.message


def test_the_table_is_the_one_of_kubectl() -> None:
    node = render_node(SETTINGS, MACHINE, VERSION, NOW)
    node["metadata"]["creationTimestamp"] = "2027-01-15T08:00:00Z"
    node["metadata"]["labels"]["node-role.kubernetes.io/control-plane"] = "true"
    silent = json.loads(json.dumps(node))
    silent["metadata"].update(name="pi-22", labels={})
    silent["status"]["conditions"][3]["status"] = "Unknown"
    silent["spec"]["unschedulable"] = True
    assert kubectl.render_table([node, silent], wide=False, headers=True, now=NOW + 300) == (
        "NAME    STATUS                        ROLES           AGE   VERSION\n"
        "pi-1    Ready                         control-plane   5m    v1.33.5+k3s1-simulator\n"
        "pi-22   NotReady,SchedulingDisabled   <none>          5m    v1.33.5+k3s1-simulator\n"
    )
    wide = kubectl.render_table([node], wide=True, headers=False, now=NOW + 90_000 * 2)
    assert "2d" in wide
    assert wide.split()[5] == "10.0.0.1"
    assert kubectl.render_table([], wide=False, headers=True, now=NOW) == "No resources found\n"


@pytest.mark.parametrize("argv", [["get", "pods"], ["apply", "-f", "x"], ["get", "nodes", "-o", "yaml"], []])
def test_kubectl_says_what_it_can_not_do(argv: list[str]) -> None:
    with pytest.raises(K3sError, match="this k3s is a simulator"):
        kubectl.parse_arguments(argv, {})


def test_kubectl_understands_its_options() -> None:
    asked = kubectl.parse_arguments(["get", "no", "pi-1", "-o", "wide", "--no-headers"], {"KUBECONFIG": "/k"})
    assert asked == kubectl.GetNodes(Path("/k"), "wide", "pi-1", False)
    assert kubectl.parse_arguments(["get", "nodes", "--kubeconfig=/x"], {}).kubeconfig == Path("/x")


@pytest.mark.parametrize(
    ("argv", "code", "out", "err"),
    [
        (["k3s", "--version"], 0, "k3s version v1.33.5+k3s1 (simulator)\npython version ", ""),
        (["k3s"], 0, "NAME:\n   k3s", ""),
        (["k3s", "secrets-encrypt"], 1, "", "(simulator) time="),
        (
            ["/usr/local/bin/crictl", "ps"],
            1,
            "",
            "this k3s is a simulator: there are no containers for crictl",
        ),
        (["k3s", "ctr", "ps"], 1, "", "this k3s is a simulator: there are no containers for ctr"),
        (["/usr/local/bin/kubectl", "get", "pods"], 1, "", "this k3s is a simulator"),
    ],
)
def test_the_command_line(
    argv: list[str], code: int, out: str, err: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv, VERSION) == code
    captured = capsys.readouterr()
    assert captured.out.startswith(out)
    assert captured.err.startswith(err)


def test_a_start_that_can_not_succeed_is_fatal_with_the_text_of_k3s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["k3s", "agent", "--node-ip", "10.0.0.1", "--node-name", "pi-1", "-d", str(tmp_path)]
    argv += ["--config", str(tmp_path / "config.yaml")]
    (tmp_path / "config.yaml").write_text("server: https://10.0.0.2:6443\n")
    assert cli.main(argv, VERSION) == 1
    assert 'level=fatal msg="Error: --token is required"' in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("token: x\n")
    assert cli.main(argv, VERSION) == 1
    assert 'level=fatal msg="Error: --server is required"' in capsys.readouterr().err


def test_a_release_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    build_release(tmp_path / "a", VERSION)
    build_release(tmp_path / "b", VERSION)
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    assert set(files) == {
        "SIMULATOR",
        "k3s-airgap-images-arm64.tar.zst",
        "k3s-arm64",
        "k3s-images.txt",
        "sha256sum-arm64.txt",
    }


def test_a_release_has_the_checksums_that_upstream_writes(tmp_path: Path) -> None:
    build_release(tmp_path, VERSION)
    for line in (tmp_path / "sha256sum-arm64.txt").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest


def test_the_program_is_an_executable_zip_with_the_package_in_it(tmp_path: Path) -> None:
    build_release(tmp_path, VERSION)
    program = tmp_path / "k3s-arm64"
    assert program.read_bytes().startswith(b"#!/usr/bin/python3\n")
    assert os.access(program, os.X_OK)
    with zipfile.ZipFile(program) as archive:
        assert {"__main__.py", "lab/__init__.py", "lab/k3s_sim/node/cli.py"} <= set(archive.namelist())
        assert b"'v1.33.5+k3s1'" in archive.read("__main__.py")


def test_the_images_say_that_they_are_simulated(tmp_path: Path) -> None:
    build_release(tmp_path, VERSION)
    packed = (tmp_path / "k3s-airgap-images-arm64.tar.zst").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(zstandard.ZstdDecompressor().decompress(packed))) as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        assert json.loads(manifest.read()) == {"simulated": True, "version": VERSION, "images": []}
    assert "not k3s" in (tmp_path / "SIMULATOR").read_text()


@pytest.mark.parametrize("version", ["1.33.5", "v1.33.5", "v1.33.5+k3s1; true"])
def test_a_release_needs_a_version_of_k3s(tmp_path: Path, version: str) -> None:
    with pytest.raises(ValueError, match="is not a k3s version"):
        build_release(tmp_path, version)
