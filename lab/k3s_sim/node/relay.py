"""A second server: joins for real (pin, token, bootstrap of the CAs), then passes every call to the first.

k3s would run a datastore of its own here. This does not: when the first server is down, so is this one.
A caller's certificate can not travel through, so its identity does, in X-Remote-User and X-Remote-Group,
vouched for by a certificate of the request-header CA; Kubernetes authenticates front proxies that way. Groups
are percent-encoded and joined with commas, so that no group's name can add another group.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from lab.k3s_sim.node import log, tokens
from lab.k3s_sim.node.auth import encode_groups
from lab.k3s_sim.node.client import KeyPair, Refusal, TransportError, TrustedServer, validate
from lab.k3s_sim.node.errors import K3sError, StatusError
from lab.k3s_sim.node.files import write_atomically
from lab.k3s_sim.node.messages import Request, Response
from lab.k3s_sim.node.protocol import ADDRESS_HEADER, BOOTSTRAP_FILES, NAME_HEADER, PASSWORD_HEADER, PREFIX

PROXY_USER = "system:auth-proxy"
_PASSED_ON = ("Authorization", "Content-Type", NAME_HEADER, PASSWORD_HEADER, ADDRESS_HEADER)


def join_cluster(url: str, token: str, directory: Path) -> TrustedServer:
    """Fetch the cluster's CAs and passwords from an older server into `directory` (<data-dir>/server).

    Returns the server, as one that was checked.

    Raises:
        K3sError: as k3s words it; the program ends and systemd starts it again.
    """
    if not token:
        raise K3sError("K3S_TOKEN is required to join a cluster")
    try:
        server = validate(url, tokens.parse_token(token).for_user("server"))
    except Refusal as error:
        raise K3sError(
            "failed to bootstrap cluster data: failed to check if bootstrap data has been initialized: "
            f"failed to validate token: {error}"
        ) from error
    try:
        files = json.loads(server.require(f"{PREFIX}server-bootstrap"))
    except Refusal as error:
        raise K3sError(
            f"failed to bootstrap cluster data: failed to bootstrap from server: {error}"
        ) from error
    for key, name in BOOTSTRAP_FILES.items():
        if key in files:
            write_atomically(directory / name, base64.b64decode(files[key]["Content"]))
    log.info(f"Cluster bootstrap data retrieved from {url}")
    return server


@dataclass(frozen=True)
class Relay:
    """The application of a joined server."""

    upstream: str
    tls: Path
    proxy: KeyPair
    proxy_issuer: str

    def handle(self, request: Request) -> Response:
        """Answer /ping and /cacerts, pass everything else on.

        Raises:
            StatusError: 503 if the first server does not answer.
        """
        cacerts = (self.tls / "server-ca.crt").read_bytes()
        if request.path == "/ping":
            return Response(200, b"pong")
        if request.path == "/cacerts":
            return Response(200, cacerts)
        try:
            answer = TrustedServer(self.upstream, cacerts, tokens.NO_TOKEN).call(
                request.method,
                request.target,
                identity=self.proxy,
                headers=self._headers(request),
                body=request.body,
            )
        except TransportError as error:
            raise StatusError(
                503, "ServiceUnavailable", f"the first server does not answer: {error}"
            ) from error
        return Response(answer.status, answer.body, answer.content_type)

    def _headers(self, request: Request) -> dict[str, str]:
        headers = {name: request.header(name) for name in _PASSED_ON if request.header(name)}
        if request.peer is not None and request.peer.issuer != self.proxy_issuer:
            headers["X-Remote-User"] = request.peer.common_name
            headers["X-Remote-Group"] = encode_groups(request.peer.organizations)
        return headers
