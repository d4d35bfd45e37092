"""k3s servers, real or simulated, each on a host of its own in a private network, with our own key material.

Servers run without an agent: what is held here is what joining nodes and the control server meet.
"""

from __future__ import annotations

import base64
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fabric import PREFIX, Fabric, laid
from k3s_release import Release
from k3s_sim_etcd import etcd_directory
from k3s_sim_processes import Admin, wait_until

from fleet.k3s import ClientIdentity, K3sMaterial, open_k3s
from fleet.k3s_manifests import render_access

PORT = 6443
ETCD_TLS = "server/tls/etcd"


@dataclass
class Server:
    """One `k3s server` process."""

    name: str
    process: subprocess.Popen[bytes]
    data: Path
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text("utf-8", "replace")

    def wait_for_log(self, text: str, deadline_s: float) -> None:
        try:
            wait_until(lambda: text in self.log, f"{text!r} in the log", deadline_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; it ends with\n{self.log[-4000:]}") from None

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass
class Hosts:
    """Servers s1, s2, … at 10.99.0.1, 10.99.0.2, …"""

    release: Release
    directory: Path
    fabric: Fabric
    keys: K3sMaterial
    servers: dict[str, Server] = field(default_factory=dict)

    def address(self, name: str) -> str:
        return f"{PREFIX}.{int(name.lstrip('s'))}"

    def url(self, name: str) -> str:
        return f"https://{self.address(name)}:{PORT}"

    def data(self, name: str) -> Path:
        return self.directory / name

    def put_authorities(self, name: str) -> None:
        """The cluster's CAs, and our role in it, where k3s looks for them before its first start."""
        access = render_access()
        files = {path: content.reveal() for path, content in self.keys.tls_files().items()}
        for path, text in {**files, access.path: access.content}.items():
            file = self.data(name) / path.removeprefix("/var/lib/rancher/k3s/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    def start(self, name: str, *argv: str) -> Server:
        """Start a server, which may have run before."""
        if not self.fabric.has(name):
            self.fabric.add(name, self.address(name))
        common = ("--data-dir", str(self.data(name)), "--node-name", name, "--node-ip", self.address(name))
        kubeconfig = ("--write-kubeconfig", str(self.directory / f"{name}.kubeconfig"))
        full = [
            *self.fabric.inside(name),
            *self.release.program,
            "server",
            "--disable-agent",
            *common,
            *kubeconfig,
        ]
        log_file = self.directory / f"{name}-{time.monotonic_ns()}.log"
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.directory), **self.release.environ}
        with log_file.open("wb") as stream:
            process = subprocess.Popen([*full, *argv], stdout=stream, stderr=stream, env=environ)
        server = Server(name, process, self.data(name), log_file)
        self.servers[name] = server
        return server

    def start_first(self, name: str = "s1") -> Server:
        """The first server, with our CAs and tokens, up to where its API is ready."""
        self.put_authorities(name)
        token, agent_token = self.keys.server_token.reveal(), self.keys.agent_password.reveal()
        server = self.start(name, "--cluster-init", "--token", token, "--agent-token", agent_token)
        self.wait_ready(name)
        return server

    def wait_ready(self, name: str) -> None:
        """Until an administrator is told that the API is ready."""
        server = self.servers[name]

        def is_ready() -> bool:
            assert server.process.poll() is None, f"k3s ended:\n{server.log[-4000:]}"
            try:
                return self.api(name).call("GET", "/readyz")[0] == 200
            except OSError:
                return False

        wait_until(is_ready, f"{name} is ready", self.release.ready_s)

    def api(self, name: str = "s1") -> Admin:
        """The API of a server, asked by an administrator."""
        return self._as(name, self.keys.admin_identity(time.time()))

    def control(self, name: str = "s1") -> Admin:
        """The same, asked with the certificate that the control server uses."""
        return self._as(name, self.keys.client_identity(time.time()))

    def _as(self, name: str, ours: ClientIdentity) -> Admin:
        return Admin(
            PORT, self._ca(), ours.certificate_path, ours.key_path, self.address(name), self.fabric.dial
        )

    def anybody(self, name: str = "s1") -> Admin:
        """The same without a certificate."""
        return Admin(PORT, self._ca(), host=self.address(name), dial=self.fabric.dial)

    def _ca(self) -> Path:
        file = self.directory / "server-ca.crt"
        file.write_text(self.keys.server_ca_pem)
        return file

    def members(self, through: str = "s1") -> Mapping[str, bool]:
        """etcd's members as /db/info names them, without their random ends, and whether they vote."""
        status, value = self.anybody(through).call("GET", "/db/info")
        assert status == 200
        return {item["name"].rpartition("-")[0]: not item.get("isLearner") for item in value["members"]}

    def etcdctl(self, through: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """Ask etcd itself, with the certificates that a server keeps for that."""
        tls = self.data(through) / ETCD_TLS
        pair = ("--cert", str(tls / "client.crt"), "--key", str(tls / "client.key"))
        common = ("--endpoints", "https://127.0.0.1:2379", "--cacert", str(tls / "server-ca.crt"), *pair)
        command = [*self.fabric.inside(through), str(etcd_directory() / "etcdctl"), *common, *argv]
        environ = {"ETCDCTL_API": "3"}
        return subprocess.run(command, capture_output=True, check=False, text=True, env=environ)

    def remove_member(self, name: str, through: str) -> None:
        """Take a server out of etcd, which refuses for a few seconds after a member began to vote."""
        listed = self.etcdctl(through, "member", "list").stdout.splitlines()
        rows = [line.split(", ") for line in listed]
        (member,) = [row[0] for row in rows if row[2].rpartition("-")[0] == name]
        wait_until(
            lambda: self.etcdctl(through, "member", "remove", member).returncode == 0, f"{name} is removed"
        )

    def close(self) -> None:
        for server in self.servers.values():  # at once: nobody wants their data
            server.process.kill()
        for server in self.servers.values():
            server.stop()


def basic(user: str, password: str) -> dict[str, str]:
    """HTTP Basic authentication, as the parts of join tokens are sent."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@contextmanager
def hosts_of(release: Release, directory: Path) -> Iterator[Hosts]:
    """An empty network with fresh key material."""
    with laid() as fabric:
        hosts = Hosts(release, directory, fabric, open_k3s(directory / "keys", "attic", time.time()))
        try:
            yield hosts
        finally:
            hosts.close()
