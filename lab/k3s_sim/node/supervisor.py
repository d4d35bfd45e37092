"""The k3s supervisor's own routes: what nodes and servers ask for when they join.

    anybody          /cacerts /ping /db/info (etcd's members)
    agents, nodes
    /v1-k3s/{serving-kubelet,client-kubelet,client-kube-proxy,client-k3s-controller,client-ca,server-ca}.crt
                     /v1-k3s/{config,apiservers,readyz}
    servers          /v1-k3s/server-bootstrap

Order of the checks, codes and texts follow k3s 1.33 as observed and documented.
"""

from __future__ import annotations

import base64
import ipaddress
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lab.k3s_sim.node import certificates, node_password
from lab.k3s_sim.node.auth import (
    AGENT_GROUP,
    BOOTSTRAP_GROUP,
    NODES_GROUP,
    SERVER_GROUP,
    Authenticator,
    Identity,
    require_group,
)
from lab.k3s_sim.node.certificates import Authority, Profile
from lab.k3s_sim.node.cluster import SYSTEM_NAMESPACE, Cluster
from lab.k3s_sim.node.errors import K3sError, StatusError, bad_request
from lab.k3s_sim.node.messages import Request, Response
from lab.k3s_sim.node.objects import Object, timestamp
from lab.k3s_sim.node.protocol import ADDRESS_HEADER, BOOTSTRAP_FILES, NAME_HEADER, PASSWORD_HEADER, PREFIX
from lab.k3s_sim.node.settings import NODE_NAME

_AGENTS = (AGENT_GROUP, NODES_GROUP, BOOTSTRAP_GROUP)


@dataclass
class Supervisor:
    """The routes, for one server. `directory` is <data-dir>/server, `https_port` the port everybody uses."""

    directory: Path
    cluster: Cluster
    authenticator: Authenticator
    https_port: int
    addresses: tuple[str, ...]
    members: Callable[[], list[Object]] | None = None
    """Members of etcd, where the datastore is etcd."""
    critical: Mapping[str, str] = field(default_factory=dict)
    """Settings that further servers must share."""
    _verified: dict[str, str] = field(default_factory=dict, repr=False)
    _hashing: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def tls(self) -> Path:
        """Where the authorities are."""
        return self.directory / "tls"

    def handle(self, request: Request) -> Response | None:
        """Answer one of the supervisor's routes; None if the path belongs to the Kubernetes API.

        Raises:
            StatusError: the request is refused.
        """
        if request.path == "/ping":
            return Response(200, b"pong")
        if request.path == "/cacerts":
            return self._file("server-ca.crt")
        if request.path == "/db/info" and self.members is not None:
            return Response.json({"members": self.members()})
        name = request.path[len(PREFIX) :] if request.path.startswith(PREFIX) else ""
        if name == "server-bootstrap":
            require_group(self.authenticator, request, (SERVER_GROUP,), time.time())
            return self._bootstrap()
        route = self._agent_routes().get(name)
        if route is None:
            return None
        identity = require_group(self.authenticator, request, _AGENTS, time.time())
        return route(request, identity)

    def _agent_routes(self) -> Mapping[str, Callable[[Request, Identity], Response]]:
        return {
            "serving-kubelet.crt": self._serving_kubelet,
            "client-kubelet.crt": self._client_kubelet,
            "client-kube-proxy.crt": lambda request, _: self._sign(
                request, "client", "client-kube-proxy", Profile("system:kube-proxy", client=True)
            ),
            "client-k3s-controller.crt": lambda request, _: self._sign(
                request, "client", "client-k3s-controller", Profile("system:k3s-controller", client=True)
            ),
            "client-ca.crt": lambda _request, _identity: self._file("client-ca.crt"),
            "server-ca.crt": lambda _request, _identity: self._file("server-ca.crt"),
            "apiservers": lambda _request, _identity: Response.json(
                [f"{address}:{self.https_port}" for address in self.addresses]
            ),
            "config": lambda _request, _identity: Response.json(self._config()),
            "readyz": lambda _request, _identity: Response(200, b"ok"),
        }

    def _config(self) -> Object:
        """The part of the agent configuration that means something without containers."""
        return {
            **self.critical,
            "HTTPSPort": self.https_port,
            "SupervisorPort": self.https_port,
            "Simulator": True,
        }

    def _file(self, name: str) -> Response:
        return Response(200, (self.tls / name).read_bytes())

    def _bootstrap(self) -> Response:
        files: Object = {}
        for key, name in BOOTSTRAP_FILES.items():
            path = self.directory / name
            if not path.exists():
                continue
            files[key] = {
                "Timestamp": timestamp(path.stat().st_mtime),
                "Content": base64.b64encode(path.read_bytes()).decode(),
            }
        return Response.json(files)

    def _serving_kubelet(self, request: Request, identity: Identity) -> Response:
        node = self._authorize_node(request, identity)
        addresses = [item for item in request.header(ADDRESS_HEADER).split(",") if item]
        for address in addresses:
            try:
                ipaddress.ip_address(address)
            except ValueError:
                raise StatusError(500, "InternalError", f"invalid node IP address {address}") from None
        names = (node, "localhost", "127.0.0.1", *addresses)
        return self._sign(
            request, "server", "serving-kubelet", Profile(node, server=True, alternative_names=names)
        )

    def _client_kubelet(self, request: Request, identity: Identity) -> Response:
        node = self._authorize_node(request, identity)
        profile = Profile(f"system:node:{node}", (NODES_GROUP,), client=True)
        return self._sign(request, "client", "client-kubelet", profile)

    def _authorize_node(self, request: Request, identity: Identity) -> str:
        """The node the caller may have certificates for: its name is free, or the password is the name's."""
        node, password = request.header(NAME_HEADER).lower(), request.header(PASSWORD_HEADER)
        if not node:
            raise bad_request("node name not set")
        if not password:
            raise bad_request("node password not set")
        if not NODE_NAME.fullmatch(node):
            raise bad_request(f"the node name {node!r} is not a DNS subdomain name")
        if identity.node is not None:
            if identity.node != node:
                raise bad_request("header node name does not match auth node name")
            if self.cluster.find("nodes", "", node) is None:
                text = f'unable to verify node identity: nodes "{node}" not found'
                raise StatusError(401, "Unauthorized", text)
        with self._hashing:  # scrypt takes 32 MiB: one at a time
            self._ensure_password(node, password)
        return node

    def _ensure_password(self, node: str, password: str) -> None:
        name = node_password.secret_name(node)
        secret = self.cluster.find("secrets", SYSTEM_NAMESPACE, name)
        if secret is None:
            stored = node_password.create_hash(password, secrets.token_bytes(8))
            self.cluster.create("secrets", SYSTEM_NAMESPACE, _password_secret(name, stored))
            self._verified[stored] = password
            return
        encoded = (secret.get("data") or {}).get("hash")
        if encoded is None:
            raise StatusError(403, "Forbidden", f"unable to locate hash data for node secret '{name}'")
        stored = base64.b64decode(encoded).decode()
        if self._verified.get(stored) == password:  # the second certificate of a join costs no second scrypt
            return
        try:
            node_password.verify_hash(stored, password)
        except node_password.HashMismatchError as error:
            raise StatusError(
                403, "Forbidden", f"unable to verify hash for node '{node}': {error}"
            ) from error
        self._verified[stored] = password

    def _sign(self, request: Request, ca: str, name: str, profile: Profile) -> Response:
        """A POST brings a signing request; a GET (old agents) gets the server's shared key along with the
        certificate.
        """
        authority = Authority.in_directory(self.tls, f"{ca}-ca")
        key = b""
        try:
            if request.method == "POST":
                pem = certificates.sign_request(authority, profile, request.body)
            else:
                key_file = self.tls / f"{name}.key"
                pem = certificates.issue_for_key(authority, profile, key_file)
                key = key_file.read_bytes()
        except K3sError as error:
            raise StatusError(500, "InternalError", f"Internal error occurred: {error}") from error
        return Response(200, pem + authority.certificate.read_bytes() + key)


def _password_secret(name: str, stored: str) -> Object:
    return {
        "metadata": {"name": name},
        "type": node_password.SECRET_TYPE,
        "immutable": True,
        "data": {"hash": base64.b64encode(stored.encode()).decode()},
    }
