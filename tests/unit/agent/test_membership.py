"""What a disk holds of the cluster: pairs that load, pairs that do not, and what is done about those."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from agent_nodes import FakeSystem, write_tree
from cryptography.hazmat.primitives import serialization
from fakes_agent import make_pair

from agent.actions import adopt
from agent.k3s import K3s
from agent.membership import DIRECTORY, KUBELET, PAIRS, describe_loss, loads, put_damaged_aside
from agent.protocol import NodeFile

CERTIFICATE, KEY = make_pair()
_, ANOTHER_KEY = make_pair()


def put(root: Path, name: str, certificate: bytes | None, key: bytes | None) -> None:
    files = {f"{name}.crt": certificate, f"{name}.key": key}
    write_tree(root, {str(DIRECTORY / end): data for end, data in files.items() if data is not None})


@pytest.mark.parametrize(
    ("certificate", "key", "sound"),
    [
        (CERTIFICATE, KEY, True),
        (CERTIFICATE * 2, KEY, True),
        (None, None, False),
        (CERTIFICATE, None, False),
        (None, KEY, False),
        (CERTIFICATE, b"", False),
        (b"", KEY, False),
        (CERTIFICATE, bytes(len(KEY)), False),
        (CERTIFICATE[:-60], KEY, False),
        (CERTIFICATE, KEY[:90], False),
        (CERTIFICATE, ANOTHER_KEY, False),
        (os.urandom(4096), os.urandom(4096), False),
    ],
    ids=[
        "sound",
        "with-its-chain",
        "nothing",
        "no-key",
        "no-certificate",
        "empty-key",
        "empty-certificate",
        "zeros",
        "cut-off-certificate",
        "cut-off-key",
        "of-another-pair",
        "noise",
    ],
)
def test_node_has_joined_where_the_kubelets_pair_loads(
    tmp_path: Path, certificate: bytes | None, key: bytes | None, sound: bool
) -> None:
    put(tmp_path, KUBELET, certificate, key)
    assert K3s("agent", FakeSystem(), tmp_path).has_joined() is sound


@pytest.mark.parametrize("damaged", ["file", "directories", "encrypted"])
def test_data_directory_of_another_shape_is_no_membership_and_ends_nothing(
    tmp_path: Path, damaged: str
) -> None:
    if damaged == "file":
        write_tree(tmp_path, {"var/lib/rancher/k3s": b""})
    elif damaged == "directories":
        (tmp_path / DIRECTORY / f"{KUBELET}.key").mkdir(parents=True)
        (tmp_path / DIRECTORY / f"{KUBELET}.crt").mkdir()
    else:
        loaded = serialization.load_pem_private_key(KEY, None)
        kind = serialization.BestAvailableEncryption(b"secret")
        pem = loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, kind)
        put(tmp_path, KUBELET, CERTIFICATE, pem)
    assert not K3s("server", FakeSystem(), tmp_path).has_joined()


def test_before_a_join_what_does_not_load_is_put_aside_and_what_does_stays(tmp_path: Path) -> None:
    put_damaged_aside(tmp_path)  # nothing is there at a first join
    put(tmp_path, KUBELET, CERTIFICATE, b"")
    put(tmp_path, "serving-kubelet", CERTIFICATE, KEY)
    put(tmp_path, "client-kube-proxy", None, b"half")
    for _ in range(2):
        put_damaged_aside(tmp_path)
    names = sorted(path.name for path in (tmp_path / DIRECTORY).iterdir())
    assert names == [
        "client-kube-proxy.key.damaged",
        "client-kubelet.crt.damaged",
        "client-kubelet.key.damaged",
        "serving-kubelet.crt",
        "serving-kubelet.key",
    ]
    assert loads(tmp_path, "serving-kubelet")
    put(tmp_path, KUBELET, b"", KEY)  # damaged again, a year later
    put_damaged_aside(tmp_path)
    assert not any((tmp_path / DIRECTORY / f"{KUBELET}.{end}").exists() for end in ("crt", "key"))
    assert KUBELET in PAIRS


@pytest.mark.parametrize(
    "line",
    [
        "token-file: /etc/rancher/../shadow",
        "token-file: /etc/passwd",
        "token-file: /etc/rancher/k3s/\x00token",
        "token-file: /etc/rancher//k3s/token",
    ],
)
def test_damaged_settings_name_no_file_that_would_be_removed(tmp_path: Path, line: str) -> None:
    """Such a name would be refused at each attempt, or be a file of somebody else's."""
    drop_in = "/etc/rancher/k3s/config.yaml.d/50-bramble.yaml"
    write_tree(tmp_path, {drop_in[1:]: f"\xffnode-name: pi-1\n{line}\n".encode("latin-1")})
    record = adopt(tmp_path, "k3s-agent.service", 4, (NodeFile(drop_in, "0600", "node-name: pi-1\n"),))
    assert (record.remove_after_ready, record.cleaned) == ((), True)


def test_server_is_told_of_the_order_and_an_agent_of_its_disk() -> None:
    assert "'bramble reimage s1'" in describe_loss("s1", "server").hint
    assert "joins anew by itself" in describe_loss("a1", "agent").hint
