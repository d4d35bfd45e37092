"""A real etcd of any size on addresses of the loopback device, with the cluster's own CAs and k3s's ports.

Members are named as k3s names them. Elections take a second instead of k3s's five, so that tests are short.
"""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from k3s_sim_etcd import etcd_directory, own_network
from k3s_sim_processes import wait_until

from fleet.etcd.client import EtcdClient
from fleet.k3s.material import CLIENT_LIFETIME, K3sMaterial, open_k3s
from fleet.trust.certificates import (
    Authority,
    certificate_pem,
    key_pem,
    load_authority,
    new_key,
    subject,
    utc,
)

ELECTION_MS = 1000


@dataclass
class RealEtcd:
    """Members of the nodes s1, s2, …; node `s1` has member `s1-00000001`."""

    directory: Path
    keys: K3sMaterial
    network: str = field(default_factory=own_network)
    heartbeat_ms: int = ELECTION_MS // 10
    election_ms: int = ELECTION_MS
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def address(self, node: str) -> str:
        return f"{self.network}.{int(node.lstrip('s'))}"

    def member_name(self, node: str) -> str:
        return f"{node}-{int(node.lstrip('s')):08x}"

    def client(self, *nodes: str) -> EtcdClient:
        """A client that knows these nodes, or all that were started."""
        names = nodes or tuple(self.running)
        return EtcdClient({name: self.address(name) for name in names}, self.keys.etcd_identity(time.time()))

    def grow(self, count: int) -> None:
        """Start so many members as one new cluster, and wait until they all follow a leader."""
        names = [f"s{number}" for number in range(1, count + 1)]
        initial = ",".join(f"{self.member_name(name)}=https://{self.address(name)}:2380" for name in names)
        for name in names:
            self.start(name, initial, "new")
        for name in names:
            self.wait_healthy(name)

    def wait_healthy(self, node: str) -> None:
        """Until a member has answered a question that needs a quorum."""
        wait_until(lambda: self.ctl(node, "endpoint", "health").returncode == 0, f"{node} is healthy")

    def start(self, node: str, initial: str = "", state: str = "existing") -> None:
        """Start a member; one that ran before needs no `initial`."""
        data = self.directory / node
        data.mkdir(exist_ok=True, mode=0o700)
        pairs = {kind: self._certificate(node, kind) for kind in ("server", "peer")}
        url = f"https://{self.address(node)}"
        config = {
            "name": self.member_name(node),
            "data-dir": str(data),
            "listen-client-urls": f"{url}:2379",
            "advertise-client-urls": f"{url}:2379",
            "listen-peer-urls": f"{url}:2380",
            "initial-advertise-peer-urls": f"{url}:2380",
            "client-transport-security": pairs["server"],
            "peer-transport-security": pairs["peer"],
            "heartbeat-interval": self.heartbeat_ms,
            "election-timeout": self.election_ms,
            "initial-cluster": initial,
            "initial-cluster-state": state,
            "logger": "zap",
            "log-level": "warn",
        }
        file = self.directory / f"{node}.json"
        file.write_text(json.dumps(config))
        with (self.directory / f"{node}.log").open("ab") as log:
            self.running[node] = subprocess.Popen(
                [str(etcd_directory() / "etcd"), "--config-file", str(file)],
                stdout=log, stderr=log, env={"PATH": os.environ["PATH"]},
            )  # fmt: skip

    def add(self, node: str, *, start: bool = True) -> None:
        """A further member, as a learner."""
        told: list[str] = []

        def add() -> bool:  # refused for some seconds after an election
            done = self.ctl("s1", "member", "add", self.member_name(node), "--learner",
                            f"--peer-urls=https://{self.address(node)}:2380")  # fmt: skip
            told.append(done.stdout)
            return done.returncode == 0

        wait_until(add, f"{node} is added")
        line = next(line for line in told[-1].splitlines() if line.startswith("ETCD_INITIAL_CLUSTER="))
        if start:
            self.start(node, line.partition("=")[2].strip('"'))

    def ctl(self, node: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """`etcdctl` against one member."""
        identity = self.keys.etcd_identity(time.time())
        ca = self.directory / "etcd-ca.crt"
        ca.write_text(identity.ca_pem)
        common = ["--endpoints", f"https://{self.address(node)}:2379", "--cacert", str(ca)]
        common += ["--cert", str(identity.certificate_path), "--key", str(identity.key_path)]
        command = [str(etcd_directory() / "etcdctl"), "--command-timeout=3s", *common, *argv]
        environ = {"ETCDCTL_API": "3"}
        return subprocess.run(command, capture_output=True, check=False, text=True, env=environ)

    def freeze(self, node: str) -> None:
        self.running[node].send_signal(signal.SIGSTOP)

    def thaw(self, node: str) -> None:
        self.running[node].send_signal(signal.SIGCONT)

    def kill(self, node: str) -> None:
        process = self.running.pop(node)
        process.kill()
        process.wait()

    def _certificate(self, node: str, kind: str) -> dict[str, object]:
        tls = self.directory / "tls"
        tls.mkdir(exist_ok=True)
        files = {name: content.reveal() for name, content in self.keys.tls_files().items()}
        pems = [
            next(text for name, text in files.items() if name.endswith(f"etcd/{kind}-ca.{end}"))
            for end in ("crt", "key")
        ]
        authority = load_authority(pems[0].encode(), pems[1].encode())
        key = new_key()
        leaf = _leaf(authority, key.public_key(), self.address(node))
        paths = [tls / f"{node}-{kind}.{end}" for end in ("crt", "key")]
        paths[0].write_bytes(certificate_pem(leaf))
        paths[1].write_bytes(key_pem(key))
        trusted = tls / f"{kind}-ca.crt"
        trusted.write_text(pems[0])
        return {
            "cert-file": str(paths[0]),
            "key-file": str(paths[1]),
            "trusted-ca-file": str(trusted),
            "client-cert-auth": True,
        }

    def close(self) -> None:
        for process in self.running.values():
            process.kill()
        for process in self.running.values():
            process.wait()


def _leaf(authority: Authority, public_key: ec.EllipticCurvePublicKey, address: str) -> x509.Certificate:
    """For both directions, as etcd's members need it."""
    now = utc(time.time())
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    names = [x509.IPAddress(ipaddress.ip_address(one)) for one in (address, "127.0.0.1")]
    return (
        x509.CertificateBuilder()
        .subject_name(subject("etcd"))
        .issuer_name(authority.certificate.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + CLIENT_LIFETIME)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


@contextmanager
def real_etcd(directory: Path, count: int = 0, *, election_ms: int = ELECTION_MS) -> Iterator[RealEtcd]:
    """A cluster of `count` members that ends with the block."""
    directory.mkdir(exist_ok=True)
    keys = open_k3s(directory / "keys", "attic", time.time())
    etcd = RealEtcd(directory, keys, heartbeat_ms=election_ms // 10, election_ms=election_ms)
    try:
        if count:
            etcd.grow(count)
        yield etcd
    finally:
        etcd.close()
