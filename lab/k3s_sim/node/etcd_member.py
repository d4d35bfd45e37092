"""This server's member of etcd: its files, its name, its process.

    <data-dir>/server/db/etcd/name        <node name>-<8 hex>, for the member's whole life
    <data-dir>/server/db/etcd/config      what etcd was started with
    <data-dir>/server/db/etcd/member/wal  there once etcd has run: from then on the settings decide nothing
    <data-dir>/server/db/etcd/tombstone   the member was removed: the next start moves the directory aside
    <data-dir>/server/db/reset-flag       the membership was reset

k3s runs etcd inside its own process. Here it is a child, with the numbers of k3s, which dies with its parent
and whose end ends the parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from lab.k3s_sim.node import certificates, log
from lab.k3s_sim.node.certificates import Authority, Profile
from lab.k3s_sim.node.errors import K3sError
from lab.k3s_sim.node.etcd_client import EtcdClient, EtcdTls
from lab.k3s_sim.node.files import write_atomically

CLIENT_PORT, PEER_PORT, METRICS_PORT = 2379, 2380, 2381
HEARTBEAT_MS, ELECTION_MS, SNAPSHOT_COUNT = 500, 5000, 10_000
MAX_BACKUPS = 5
"""Old data directories that are kept."""

AUTHORITIES = ("etcd/server-ca", "etcd/peer-ca")
_REMOVED = "the member has been permanently removed from the cluster"
_STOP_S = 10.0


@dataclass(frozen=True)
class InitialCluster:
    """With whom a member starts that has no data yet: `state` is new or existing."""

    members: str
    state: str


class EtcdMember:
    """One member. `address` is the node's first address, `tls` is <data-dir>/server/tls."""

    def __init__(self, programs: Path, directory: Path, tls: Path, node_name: str, address: str) -> None:
        self._programs = programs
        self._tls = tls
        self._node_name = node_name
        self.address = address
        self.directory = directory / "db" / "etcd"
        self.reset_flag = directory / "db" / "reset-flag"
        self.snapshots = directory / "db" / "snapshots"
        self._tombstone = self.directory / "tombstone"
        self._log = directory / "db" / "etcd.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def peer_url(self) -> str:
        """Where the other members find this one."""
        return f"https://{_bracketed(self.address)}:{PEER_PORT}"

    @property
    def client_url(self) -> str:
        """Where clients find this member."""
        return f"https://{_bracketed(self.address)}:{CLIENT_PORT}"

    @property
    def is_initialized(self) -> bool:
        """Whether etcd has run here."""
        return (self.directory / "member" / "wal").is_dir()

    @property
    def name(self) -> str:
        """The member's name, made on first use."""
        file = self.directory / "name"
        if not file.exists():
            self.rename()
        return file.read_text("utf-8")

    def rename(self) -> None:
        """Take a new name."""
        write_atomically(self.directory / "name", f"{self._node_name}-{secrets.token_hex(4)}".encode())

    def forget_name(self) -> None:
        """Take a new name at the next start."""
        (self.directory / "name").unlink(missing_ok=True)

    def move_aside_if_removed(self) -> None:
        """A tombstone means that this data belongs to a member that is gone."""
        if self._tombstone.exists():
            log.info("tombstone file has been detected, removing data dir to rejoin the cluster")
            self.move_aside()

    def move_aside(self) -> None:
        """Keep the data directory under another name, and only the newest few of those."""
        self.directory.rename(self.directory.with_name(f"etcd-old-{time.time_ns() // 1_000_000}"))
        for old in sorted(self.directory.parent.glob("etcd-old-*"))[:-MAX_BACKUPS]:
            shutil.rmtree(old)

    def issue_certificates(self) -> None:
        """New leaves for etcd's clients, its client port and its peer port."""
        server_ca, peer_ca = (Authority.in_directory(self._tls, name) for name in AUTHORITIES)
        names = ("localhost", "127.0.0.1", "::1", self.address)
        issued = (
            ("client", server_ca, Profile("etcd-client", client=True)),
            ("server-client", server_ca, Profile("etcd-server", (), True, True, names)),
            ("peer-server-client", peer_ca, Profile("etcd-peer", (), True, True, names)),
        )
        for name, authority, profile in issued:
            certificate, key = self._tls / "etcd" / f"{name}.crt", self._tls / "etcd" / f"{name}.key"
            certificates.issue(authority, profile, certificate, key)

    def client(self, *endpoints: str) -> EtcdClient:
        """A client of other members, or of this one."""
        etcd = self._tls / "etcd"
        tls = EtcdTls(etcd / "server-ca.crt", etcd / "client.crt", etcd / "client.key")
        return EtcdClient(endpoints or (self.client_url,), tls)

    def start(self, initial: InitialCluster | None, *, alone: bool = False) -> None:
        """Start etcd. A member that has data needs no `initial`; `alone` makes it a cluster of its own.

        The process is bound to the thread that calls this: it is killed when the thread ends. It must not see
        NOTIFY_SOCKET, or it would tell systemd that k3s is ready.
        """
        write_atomically(
            self.directory / "config", json.dumps(self._config(initial, alone), indent=2).encode()
        )
        self.directory.chmod(0o700)
        argv = ["setpriv", "--pdeathsig", "KILL", str(self._programs / "etcd")]
        argv += ["--config-file", str(self.directory / "config")]
        environ = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR") if key in os.environ}
        try:
            with self._log.open("ab") as stream:
                self._process = subprocess.Popen(argv, stdout=stream, stderr=stream, env=environ)
        except FileNotFoundError as error:
            raise K3sError("the simulator needs the 'setpriv' command (Debian package util-linux)") from error

    def _config(self, initial: InitialCluster | None, alone: bool) -> dict[str, Any]:
        etcd = self._tls / "etcd"
        listen = [self.client_url]
        metrics = f"http://{_bracketed(self.address)}:{METRICS_PORT}"
        if not ip_address(self.address).is_loopback:  # several servers of a test share one loopback device
            listen.append(f"https://127.0.0.1:{CLIENT_PORT}")
            metrics = f"http://127.0.0.1:{METRICS_PORT}"
        config: dict[str, Any] = {
            "name": self.name,
            "data-dir": str(self.directory),
            "listen-client-urls": ",".join(listen),
            "advertise-client-urls": self.client_url,
            "listen-peer-urls": self.peer_url,
            "initial-advertise-peer-urls": self.peer_url,
            "listen-metrics-urls": metrics,
            "client-transport-security": _security(etcd, "server-client", "server-ca"),
            "peer-transport-security": _security(etcd, "peer-server-client", "peer-ca"),
            "heartbeat-interval": HEARTBEAT_MS,
            "election-timeout": ELECTION_MS,
            "snapshot-count": SNAPSHOT_COUNT,
            "force-new-cluster": alone,
            "logger": "zap",
            "log-outputs": ["stderr"],
        }
        if initial is not None:
            config.update({"initial-cluster": initial.members, "initial-cluster-state": initial.state})
        return config

    def exit_reason(self) -> str | None:
        """Why etcd is no longer running; None while it is."""
        if self._process is None or self._process.poll() is None:
            return None
        lines = self._log.read_text("utf-8", "replace").splitlines()[-40:]
        if any(_REMOVED in line for line in lines):
            return _REMOVED
        told = next((line for line in reversed(lines) if '"fatal"' in line or '"panic"' in line), "")
        return f"etcd exited with {self._process.returncode}: {_message(told) or 'see ' + str(self._log)}"

    def is_removed(self) -> bool:
        """Whether etcd ended because the others have removed this member."""
        return self.exit_reason() == _REMOVED

    def bury(self) -> None:
        """Note that this data belongs to a member that is gone."""
        write_atomically(self._tombstone, b"")
        log.warning(f"{_REMOVED}; the data-dir used by this member must be removed")  # etcd's own words
        log.info("this node has been removed from the cluster please restart k3s to rejoin the cluster")

    def stop(self) -> None:
        """End etcd, by force if it does not end by itself."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        self._process = None

    def save_snapshot(self, file: Path) -> None:
        """Have a running member write its data to a file."""
        self._tool("etcdctl", "snapshot", "save", str(file))
        file.chmod(0o600)

    def take_data_along(self) -> None:
        """Of a member that was started `alone` and stopped: begin again with its data and no log.

        A member that was killed may have applied what its log does not yet call committed; etcd's
        `force-new-cluster` takes that out of the log and leaves it in the data, and members that join later
        have other data. Source: measured on etcd 3.5.1. k3s lives with it.
        """
        copied = self.directory.with_name(".etcd.db")
        shutil.copyfile(self.directory / "member" / "snap" / "db", copied)
        self.restore_snapshot(copied, "--skip-hash-check")
        copied.unlink()

    def restore_snapshot(self, file: Path, *options: str) -> None:
        """Make the data directory from a snapshot: a cluster of this member alone, under a new name."""
        if self.directory.exists():
            self.move_aside()
        self.rename()
        name = self.name
        fresh = self.directory.with_name(".etcd.restored")
        if fresh.exists():
            shutil.rmtree(fresh)
        self._tool(
            "etcdutl", "snapshot", "restore", str(file), "--name", name, "--data-dir", str(fresh),
            "--initial-cluster", f"{name}={self.peer_url}", "--initial-advertise-peer-urls", self.peer_url,
            *options,
        )  # fmt: skip
        (fresh / "name").write_text(name, "utf-8")
        shutil.rmtree(self.directory)
        fresh.rename(self.directory)

    def _tool(self, program: str, *arguments: str) -> None:
        etcd = self._tls / "etcd"
        environ = {
            "PATH": os.environ.get("PATH", ""),
            "ETCDCTL_API": "3",
            "ETCDCTL_ENDPOINTS": self.client_url,
            "ETCDCTL_CACERT": str(etcd / "server-ca.crt"),
            "ETCDCTL_CERT": str(etcd / "client.crt"),
            "ETCDCTL_KEY": str(etcd / "client.key"),
        }
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            env=environ,
            capture_output=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise K3sError(
                f"{program} {arguments[0]} {arguments[1]}: {lines[-1] if lines else done.returncode}"
            )


def _security(etcd: Path, leaf: str, authority: str) -> dict[str, Any]:
    return {
        "cert-file": str(etcd / f"{leaf}.crt"),
        "key-file": str(etcd / f"{leaf}.key"),
        "client-cert-auth": True,
        "trusted-ca-file": str(etcd / f"{authority}.crt"),
    }


def _message(line: str) -> str:
    try:
        document = json.loads(line)
    except ValueError:
        return ""
    return ": ".join(str(document[key]) for key in ("msg", "error") if document.get(key))


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
