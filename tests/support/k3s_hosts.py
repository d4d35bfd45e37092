"""k3s nodes, real or simulated, each on a host of its own in a private network, with our own key material.

They start from the files that Bramble hands to nodes, at the paths that those name. Servers run without the
agent inside them, and agents without containers: what is held here is what joining nodes and the control
server meet.
"""

from __future__ import annotations

import base64
import dataclasses
import os
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, TypeVar

from fabric import PREFIX, Fabric, laid
from fabric_loop import run_inside
from fakes_fleet import cluster_spec, node_spec
from k3s_release import Release
from k3s_sim_processes import Admin, wait_until
from k3s_unit import unit_starts
from own_etc import with_own_etc

from agent.k3s import JOURNAL_LINES, classify
from agent.protocol import JoinMaterial, NodeFile
from fleet.etcd.client import EtcdClient
from fleet.etcd.errors import EtcdError
from fleet.etcd.view import EtcdView
from fleet.join.secrets import BootstrapToken
from fleet.k3s.config import InitialiseCluster, Way, render_join_material
from fleet.k3s.material import ClientIdentity, K3sMaterial, open_k3s
from fleet.kube.client import KubeApi
from fleet.recovery.state import RESTORE_DIRECTORY
from fleet.secret import Secret
from fleet.spec.model import ClusterSpec, NodeSpec, Role

PORT = 6443
DATA = "/var/lib/rancher/k3s/"
NO_CONTAINERS = "unix:///run/bramble-no-containers.sock"
SERVERS, AGENTS = ("s1", "s2", "s3"), ("a1", "a2")
Result = TypeVar("Result")


@dataclass
class Server:
    """One process of k3s."""

    name: str
    process: subprocess.Popen[bytes]
    data: Path
    log_file: Path
    is_kept_up: bool = False
    """Whether it is started again when it ends by itself, as systemd does on a node."""

    @property
    def log(self) -> str:
        return self.log_file.read_text("utf-8", "replace")

    @property
    def cause(self) -> str:
        """What the agent on the node would report of its log; "" while it knows no cause."""
        problem = classify(self.log.splitlines()[-JOURNAL_LINES:])
        return problem.code if problem else ""

    def wait_for_log(self, text: str, deadline_s: float) -> None:
        self.wait_for(lambda: text in self.log, f"{text!r} in the log", deadline_s)

    def wait_for_cause(self, code: str, deadline_s: float) -> None:
        """Until the log tells this class of failure, as the agent on the node reads it."""
        self.wait_for(lambda: self.cause == code, f"the cause {code}", deadline_s)

    def wait_for(self, condition: Callable[[], object], what: str, deadline_s: float) -> None:
        try:
            wait_until(condition, what, deadline_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; its log ends with\n{self.log[-4000:]}") from None

    def stop(self) -> None:
        self.is_kept_up = False
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self.is_kept_up = False
        self.process.kill()
        self.process.wait()


def address_of(name: str) -> str:
    """s1 is 10.99.0.1, a1 is 10.99.0.101."""
    return f"{PREFIX}.{int(name[1:]) + (100 if name.startswith('a') else 0)}"


def spec_of(release: Release) -> ClusterSpec:
    """A cluster of three servers and two agents that run this release."""

    def node(name: str) -> NodeSpec:
        role = Role.AGENT if name in AGENTS else Role.SERVER
        address = IPv4Address(address_of(name))
        return dataclasses.replace(node_spec(name, int(address) % 256, role=role), address=address)

    spec = cluster_spec(*map(node, (*SERVERS, *AGENTS)))
    k3s = dataclasses.replace(spec.k3s, version=str(release.version), config={})
    network = dataclasses.replace(spec.network, subnet=IPv4Network(f"{PREFIX}.0/24"))
    return dataclasses.replace(spec, k3s=k3s, network=network)


@dataclass
class Hosts:
    """Servers s1, s2, … and agents a1, a2, …"""

    release: Release
    directory: Path
    fabric: Fabric
    keys: K3sMaterial
    spec: ClusterSpec
    servers: dict[str, Server] = field(default_factory=dict)
    """By name: the last process of each."""

    def address(self, name: str) -> str:
        return address_of(name)

    def url(self, name: str) -> str:
        return f"https://{address_of(name)}:{PORT}"

    def data(self, name: str) -> Path:
        return self.directory / name

    def password(self, name: str) -> Secret:
        """The node's password, as the control server would have made it."""
        return Secret(f"password of {name}")

    def material(self, name: str, way: Way, bootstrap: BootstrapToken | None = None) -> JoinMaterial:
        """What the control server hands to this node."""
        node = self.spec.find_node(name)
        assert node is not None
        return render_join_material(
            self.spec,
            node,
            self.keys,
            way,
            address=address_of(name),
            node_password=self.password(name),
            generation=1,
            version=self.release.version,
            bootstrap=bootstrap,
        )

    def lay(self, name: str, files: Iterable[NodeFile]) -> None:
        """Put files where the node's k3s finds them; what is below its data directory is there already."""
        for file in files:
            path = self.place(name, file.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = str(self.place(name, RESTORE_DIRECTORY))
            path.write_text(file.content.replace(RESTORE_DIRECTORY, kept))
            path.chmod(int(file.mode, 8))

    def finish(self, name: str, material: JoinMaterial) -> None:
        """What the agent does when k3s runs: the later files, then the token goes."""
        self.lay(name, material.files_after_ready)
        for path in material.remove_after_ready:
            self.place(name, path).unlink()

    def place(self, name: str, path: str) -> Path:
        """Where a path of the node is on this machine."""
        if path.startswith(DATA):
            return self.data(name) / path.removeprefix(DATA)
        return self.directory / f"{name}-root" / path.lstrip("/")

    def start(self, name: str, *argv: str) -> Server:
        """Start a server from flags alone, which may have run before."""
        common = ("--node-name", name, "--node-ip", address_of(name))
        return self._run(name, ["server", "--disable-agent", *self._places(name), *common, *argv])

    def start_node(self, name: str) -> Server:
        """Start a node's k3s from what was laid, and nothing else."""
        if name in AGENTS:
            data = ("--data-dir", str(self.data(name)))
            return self._run(name, ["agent", *data, "--container-runtime-endpoint", NO_CONTAINERS])
        return self._run(name, ["server", "--disable-agent", *self._places(name)])

    def keep_up(self, name: str) -> Server:
        """Start a server like `start_node`, and again when it ends by itself.

        A real one does when its etcd had no leader for some seconds: its controllers lose their leases.
        """
        server = self.start_node(name)
        server.is_kept_up = True
        return server

    def may_start(self, name: str) -> bool:
        """What the image's unit asks before it starts a server's k3s."""
        return unit_starts(self.place(name, "/"), self.data(name))

    def _revive(self) -> None:
        for server in list(self.servers.values()):
            if server.is_kept_up and server.process.poll() is not None and self.may_start(server.name):
                self.keep_up(server.name)

    def _places(self, name: str) -> tuple[str, ...]:
        kubeconfig = str(self.directory / f"{name}.kubeconfig")
        return ("--data-dir", str(self.data(name)), "--write-kubeconfig", kubeconfig)

    def _run(self, name: str, command: list[str]) -> Server:
        if not self.fabric.has(name):
            self.fabric.add(name, address_of(name))
        room, rancher = self.directory / f"{name}-room", self.place(name, "/etc/rancher")
        room.mkdir(exist_ok=True)
        rancher.mkdir(parents=True, exist_ok=True)
        full = [*self.fabric.inside(name), *with_own_etc(room, rancher), *self.release.program, *command]
        log_file = self.directory / f"{name}-{time.monotonic_ns()}.log"
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.directory), **self.release.environ}
        with log_file.open("wb") as stream:
            process = subprocess.Popen(full, stdout=stream, stderr=stream, env=environ)
        server = Server(name, process, self.data(name), log_file)
        self.servers[name] = server
        return server

    def start_first(self, name: str = "s1") -> JoinMaterial:
        """The first server, from its material, up to where its API is ready."""
        material = self.material(name, InitialiseCluster())
        self.lay(name, material.files)
        self.keep_up(name)
        self.wait_ready(name)
        return material

    def wait_ready(self, name: str) -> None:
        """Until an administrator is told that the API is ready."""
        server = self.servers[name]

        def is_ready() -> bool:
            self._revive()
            present = self.servers[name]
            assert present.process.poll() is None, f"k3s ended:\n{present.log[-4000:]}"
            try:
                return self.api(name).call("GET", "/readyz")[0] == 200
            except OSError:
                return False

        server.wait_for(is_ready, f"{name} is ready", self.release.ready_s)

    def api(self, name: str = "s1") -> Admin:
        """The API of a server, asked by an administrator."""
        return self._as(name, self.keys.admin_identity(time.time()))

    def control(self, name: str = "s1") -> Admin:
        """The same, asked with the certificate that the control server uses."""
        return self._as(name, self.keys.client_identity(time.time()))

    def _as(self, name: str, ours: ClientIdentity) -> Admin:
        return Admin(
            PORT, self._ca(), ours.certificate_path, ours.key_path, address_of(name), self.fabric.dial
        )

    def anybody(self, name: str = "s1") -> Admin:
        """The same without a certificate."""
        return Admin(PORT, self._ca(), host=address_of(name), dial=self.fabric.dial)

    def _ca(self) -> Path:
        file = self.directory / "server-ca.crt"
        file.write_text(self.keys.server_ca_pem)
        return file

    def kube(self, name: str = "s1") -> KubeApi:
        """The control server's own client of the API, to be used inside `run`."""
        return KubeApi(self.url(name), self.keys.client_identity(time.time()))

    def etcd(self) -> EtcdClient:
        """The control server's own client of etcd, to be used inside `run`."""
        # Those that were never plugged in would be waited for: nobody there says that nobody is there.
        addresses = {name: address_of(name) for name in SERVERS if self.fabric.has(name)}
        return EtcdClient(addresses, self.keys.etcd_identity(time.time()))

    def run(self, story: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine whose connections begin in the hosts' network."""
        return run_inside(self.fabric, story)

    def wait_role(self) -> None:
        """Until our role is in force, which k3s makes of the manifest that it was given."""
        paths = ("/api/v1/nodes", "/api/v1/namespaces/kube-system/secrets?limit=1")

        def is_in_force() -> bool:
            return all(self.control().call("GET", path)[0] == 200 for path in paths)

        wait_until(is_in_force, "our manifest is applied", 120)

    def observe(self) -> EtcdView | None:
        """etcd's members and how each is; None: none answers."""
        self._revive()
        try:
            return self.run(self.etcd().observe())
        except EtcdError:
            return None

    def members(self, through: str = "s1") -> Mapping[str, bool]:
        """etcd's members as /db/info names them, without their random ends, and whether they vote."""
        status, value = self.anybody(through).call("GET", "/db/info")
        assert status == 200
        return {item["name"].rpartition("-")[0]: not item.get("isLearner") for item in value["members"]}

    def close(self) -> None:
        for server in self.servers.values():  # at once: nobody wants their data
            server.process.kill()
        for server in self.servers.values():
            server.kill()


def basic(user: str, password: str) -> dict[str, str]:
    """HTTP Basic authentication, as the parts of join tokens are sent."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@contextmanager
def hosts_of(release: Release, directory: Path) -> Iterator[Hosts]:
    """An empty network with fresh key material."""
    with laid() as fabric:
        keys = open_k3s(directory / "keys", "attic", time.time())
        hosts = Hosts(release, directory, fabric, keys, spec_of(release))
        try:
            yield hosts
        finally:
            hosts.close()
