"""The server: authorities, tokens, certificates, the HTTPS socket, and an agent for its own node.

A server is the first of its cluster, or a relay to the first. Which one is decided at the first start and
kept on disk: later starts ignore `cluster-init` and `server`, as k3s does once its datastore exists.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import secrets
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from lab.k3s_sim.node import certificates, log, notify, tokens
from lab.k3s_sim.node.agent import Agent
from lab.k3s_sim.node.auth import AGENT_GROUP, MASTERS_GROUP, SERVER_GROUP, Authenticator
from lab.k3s_sim.node.certificates import Authority, Profile
from lab.k3s_sim.node.client import KeyPair, TransportError, TrustedServer
from lab.k3s_sim.node.cluster import Cluster
from lab.k3s_sim.node.errors import K3sError
from lab.k3s_sim.node.files import write_atomically
from lab.k3s_sim.node.https_server import HttpsServer, certificate_subject, server_context
from lab.k3s_sim.node.kube_api import KubeApi
from lab.k3s_sim.node.messages import Application, Request, Response
from lab.k3s_sim.node.node_object import require_allowed_labels
from lab.k3s_sim.node.relay import PROXY_USER, Relay, join_cluster
from lab.k3s_sim.node.settings import ServerSettings
from lab.k3s_sim.node.store import SYSTEM_NAMESPACE
from lab.k3s_sim.node.supervisor import Supervisor

AUTHORITIES = ("server-ca", "client-ca", "request-header-ca")
TICK_S = 5.0
_ALWAYS_NAMED = (
    "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
    "localhost", "127.0.0.1", "::1", "10.43.0.1",
)  # fmt: skip
_CONTROL_PLANE_LABELS = {
    "node-role.kubernetes.io/control-plane": "true",
    "node-role.kubernetes.io/master": "true",
}


@dataclass(frozen=True)
class LocalCluster:
    """The application of the first server."""

    supervisor: Supervisor
    api: KubeApi

    def handle(self, request: Request) -> Response:
        """The supervisor's routes first, the rest is the Kubernetes API's."""
        return self.supervisor.handle(request) or self.api.handle(request)


@dataclass(frozen=True)
class Passwords:
    """The secrets behind the two join tokens."""

    server: str = field(repr=False)
    agent: str = field(repr=False)


class Server:
    """One server process. `run` returns when `stop` is set."""

    def __init__(self, settings: ServerSettings, version: str, stop: threading.Event) -> None:
        self._settings = settings
        self._version = version
        self._stop = stop
        self._dir = settings.server_dir
        self._tls = self._dir / "tls"
        self._database = self._dir / "db" / "sim.json"
        self._joined = self._dir / "db" / "joined.json"

    def run(self) -> None:
        """Start everything, tell systemd, then run the background controllers until stopped.

        Raises:
            K3sError: the start failed.
        """
        if not self._settings.disable_agent:
            require_allowed_labels(self._settings.agent)
        cluster: Cluster | None = None
        application: Application
        if self._is_relay():
            application = self._relay()
            passwords = self._passwords()
        else:
            self._ensure_authorities()
            passwords = self._passwords()
            cluster = Cluster(self._database)
            application = self._local(cluster, passwords)
        self._issue_certificates()
        self._listen(application)
        self._write_kubeconfig()
        log.info("k3s is up and running")
        notify.ready()
        if not self._settings.disable_agent:
            threading.Thread(target=self._run_agent, args=(passwords,), name="agent", daemon=True).start()
        while not self._stop.wait(TICK_S):
            if cluster is not None:
                cluster.tick()

    def _is_relay(self) -> bool:
        if self._database.exists():
            return False
        return self._joined.exists() or bool(self._settings.join_url)

    def _relay(self) -> Relay:
        if self._joined.exists():
            url = self._settings.join_url or str(json.loads(self._joined.read_text("utf-8"))["url"])
        else:
            url = self._settings.join_url
            join_cluster(url, self._settings.token, self._dir)
            write_atomically(self._joined, json.dumps({"url": url}).encode())
        proxy = KeyPair(self._tls / "client-auth-proxy.crt", self._tls / "client-auth-proxy.key")
        authority = Authority.in_directory(self._tls, "request-header-ca")
        certificates.issue(authority, Profile(PROXY_USER, client=True), proxy.certificate, proxy.key)
        return Relay(url, self._tls, proxy, certificate_subject(authority.certificate))

    def _local(self, cluster: Cluster, passwords: Passwords) -> LocalCluster:
        authenticator = Authenticator(
            {"server": passwords.server, "node": passwords.agent},
            lambda name: cluster.find("secrets", SYSTEM_NAMESPACE, name),
            certificate_subject(self._tls / "request-header-ca.crt"),
        )
        supervisor = Supervisor(
            self._dir, cluster, authenticator, self._settings.https_port, self._settings.agent.node_ips
        )
        return LocalCluster(supervisor, KubeApi(cluster, authenticator, self._version))

    def _ensure_authorities(self) -> None:
        """Keep authorities that were put here before the first start; make the ones that are missing."""
        for name in AUTHORITIES:
            authority = Authority.in_directory(self._tls, name)
            found = authority.certificate.exists(), authority.key.exists()
            if found == (False, False):
                certificates.create_authority(authority, f"k3s-{name}@{int(time.time())}")
            elif not all(found):
                raise K3sError(f"{authority.certificate} and {authority.key} must be given together")

    def _passwords(self) -> Passwords:
        """The secrets of the tokens: as set, as kept, or new. Writes the password and token files."""
        passwd = self._dir / "cred" / "passwd"
        kept = parse_passwd(passwd.read_text("utf-8")) if passwd.exists() else {}
        server = _password(self._settings.token) or kept.get("server") or secrets.token_hex(16)
        if kept.get("server", server) != server:
            raise K3sError("bootstrap data already found and encrypted with different token")
        agent = _password(self._settings.agent_token) or kept.get("node") or server
        write_atomically(passwd, render_passwd(server, agent).encode())
        cacerts = (self._tls / "server-ca.crt").read_bytes()
        token_file, agent_file = self._dir / "token", self._dir / "agent-token"
        write_atomically(token_file, f"{tokens.format_token(cacerts, 'server', server)}\n".encode())
        _link(self._dir / "node-token", token_file)
        if agent == server:
            _link(agent_file, token_file)
        else:
            write_atomically(agent_file, f"{tokens.format_token(cacerts, 'node', agent)}\n".encode())
        return Passwords(server, agent)

    def _issue_certificates(self) -> None:
        """New leaves at every start: their names may have changed, and they never get old."""
        agent = self._settings.agent
        names = (*_ALWAYS_NAMED, agent.node_name, *agent.node_ips, *self._settings.tls_sans)
        serving = Profile("k3s", ("k3s",), server=True, alternative_names=tuple(dict.fromkeys(names)))
        server_ca, client_ca = (
            Authority.in_directory(self._tls, name) for name in ("server-ca", "client-ca")
        )
        certificates.issue(server_ca, serving, self._tls / "serving.crt", self._tls / "serving.key")
        admin = Profile("system:admin", (MASTERS_GROUP,), client=True)
        certificates.issue(client_ca, admin, self._tls / "client-admin.crt", self._tls / "client-admin.key")

    def _listen(self, application: Application) -> None:
        client_authorities = (self._tls / "client-ca.crt", self._tls / "request-header-ca.crt")
        context = server_context(self._tls / "serving.crt", self._tls / "serving.key", client_authorities)
        address = (self._settings.bind_address or "0.0.0.0", self._settings.https_port)
        try:
            HttpsServer(address, context, application).start()
        except OSError as error:
            raise K3sError(f"listen tcp {address[0]}:{address[1]}: {error.strerror}") from error

    @property
    def _own_url(self) -> str:
        host = self._settings.bind_address or "127.0.0.1"
        return f"https://{f'[{host}]' if ':' in host else host}:{self._settings.https_port}"

    def _run_agent(self, passwords: Passwords) -> None:
        cacerts = (self._tls / "server-ca.crt").read_bytes()
        settings = dataclasses.replace(
            self._settings.agent,
            server_url=self._own_url,
            token=tokens.format_token(cacerts, "node", passwords.agent),
        )
        try:
            Agent(settings, self._version, self._stop, self._label_control_plane).run()
        except (K3sError, OSError) as error:
            log.fatal(f"Error: {error}")
            self._stop.set()

    def _label_control_plane(self, server: TrustedServer) -> None:
        """A kubelet may not call itself a control plane; the server does it."""
        admin = KeyPair(self._tls / "client-admin.crt", self._tls / "client-admin.key")
        path = f"/api/v1/nodes/{self._settings.agent.node_name}"
        body = json.dumps({"metadata": {"labels": _CONTROL_PLANE_LABELS}}).encode()
        headers = {"Content-Type": "application/merge-patch+json"}
        anonymous = TrustedServer(server.url, server.cacerts, tokens.NO_TOKEN)
        try:
            answer = anonymous.call("PATCH", path, identity=admin, headers=headers, body=body)
        except TransportError as error:
            raise K3sError(f"unable to label node: {error}") from error
        if answer.status != 200:
            raise K3sError(f"unable to label node: {answer.status_line}")

    def _write_kubeconfig(self) -> None:
        """The administrator's kubeconfig; JSON, which every reader of YAML reads."""

        def encoded(name: str) -> str:
            return base64.b64encode((self._tls / name).read_bytes()).decode()

        user = {
            "client-certificate-data": encoded("client-admin.crt"),
            "client-key-data": encoded("client-admin.key"),
        }
        cluster = {"certificate-authority-data": encoded("server-ca.crt"), "server": self._own_url}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "default",
            "clusters": [{"name": "default", "cluster": cluster}],
            "contexts": [{"name": "default", "context": {"cluster": "default", "user": "default"}}],
            "users": [{"name": "default", "user": user}],
        }
        write_atomically(self._settings.kubeconfig, json.dumps(config, indent=2).encode() + b"\n")
        self._settings.kubeconfig.chmod(self._settings.kubeconfig_mode)


def _password(token: str) -> str:
    """The secret part of a token that the settings give, which may be short or full."""
    if not token:
        return ""
    try:
        parsed = tokens.parse_token(token)
    except tokens.TokenError as error:
        raise K3sError(str(error)) from error
    if parsed.bootstrap:
        raise K3sError(
            "failed to normalize server token; must be in format "
            "K10<CA-HASH>::<USERNAME>:<PASSWORD> or <PASSWORD>"
        )
    return parsed.password


def render_passwd(server: str, agent: str) -> str:
    """The password file as k3s keeps it: password, user, user id, groups."""
    return f"{agent},node,node,{AGENT_GROUP}\n{server},server,server,{SERVER_GROUP}\n"


def parse_passwd(text: str) -> dict[str, str]:
    """Passwords by user; from the right, because a password may hold a comma."""
    rows = (line.rsplit(",", 3) for line in text.splitlines())
    return {user: password for password, user, _, _ in rows}


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)
