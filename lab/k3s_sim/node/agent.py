"""The agent: check the server, get certificates, register the node, report every ten seconds.

It never gives up: whatever refuses it is logged with its cause and tried again, as k3s does. Only a start
that can not succeed (no token and no certificate, no server, a token file that is missing) ends the program.
"""

from __future__ import annotations

import json
import random
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

from lab.k3s_sim.node import certificates, log, tokens
from lab.k3s_sim.node.client import Answer, KeyPair, Refusal, TransportError, TrustedServer, validate
from lab.k3s_sim.node.errors import K3sError
from lab.k3s_sim.node.files import write_atomically
from lab.k3s_sim.node.node_object import (
    MachineFacts,
    observe_machine,
    render_conditions,
    render_metadata,
    render_node,
    render_status,
    require_allowed_labels,
)
from lab.k3s_sim.node.objects import Object
from lab.k3s_sim.node.protocol import ADDRESS_HEADER, NAME_HEADER, PASSWORD_HEADER, PREFIX
from lab.k3s_sim.node.responders import Responders, running_status
from lab.k3s_sim.node.settings import AgentSettings

VALIDATE_RETRY_S = 2.0
CONFIG_RETRY_S = 5.0
HEARTBEAT_S = 10.0
POD_SYNC_S = 5.0
"""How often the node looks which pods are its own."""
_JITTER_S = 1.0
_STRATEGIC_PATCH = {"Content-Type": "application/strategic-merge-patch+json"}
"""Conditions of others on our node stay as they are; a merge patch would replace the whole list."""


def kubelet_identity(settings: AgentSettings) -> KeyPair:
    """The client certificate that a joined agent has."""
    return KeyPair(settings.agent_dir / "client-kubelet.crt", settings.agent_dir / "client-kubelet.key")


def require_startable(settings: AgentSettings) -> None:
    """Refuse a start that can never join: a token is needed unless the node has joined before.

    Raises:
        K3sError: with the text of k3s.
    """
    if not settings.token and not kubelet_identity(settings).is_usable():
        raise K3sError("--token is required")
    if not settings.server_url:
        raise K3sError("--server is required")
    require_allowed_labels(settings)


class Agent:
    """One node. `run` returns when `stop` is set; `on_joined` is called once, when the node is registered."""

    def __init__(
        self,
        settings: AgentSettings,
        version: str,
        stop: threading.Event,
        on_joined: Callable[[TrustedServer], None],
    ) -> None:
        self._settings = settings
        self._version = version
        self._stop = stop
        self._on_joined = on_joined
        self._identity = kubelet_identity(settings)
        self._responders = Responders(settings.node_name, settings.node_ips[0])

    def run(self) -> None:
        """Join, then report until stopped."""
        self._settings.agent_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        server = self._validated_server()
        if server is None or not self._get_certificates(server):
            return
        machine = observe_machine(self._settings.data_dir)
        if self._keep_trying(
            "Unable to register node with API server", lambda: self._register(server, machine)
        ):
            log.info(f"Successfully registered node {self._settings.node_name}")
            self._on_joined(server)
            self._report(server)

    def _validated_server(self) -> TrustedServer | None:
        url = self._settings.server_url
        while not self._stop.is_set():
            try:
                token = tokens.parse_token(self._settings.token) if self._settings.token else tokens.NO_TOKEN
                return validate(url, token.for_user("node") if token is not tokens.NO_TOKEN else token)
            except Refusal as error:
                log.error(f"Failed to validate connection to cluster at {url}: {error}")
            self._stop.wait(VALIDATE_RETRY_S)
        return None

    def _get_certificates(self, server: TrustedServer) -> bool:
        def attempt() -> None:
            self._fetch_configuration(server)
            self._fetch_node_certificate(server, "serving-kubelet")
            self._fetch_node_certificate(server, "client-kubelet")

        return self._keep_trying("Waiting to retrieve agent configuration; server is not ready", attempt)

    def _keep_trying(self, complaint: str, attempt: Callable[[], None]) -> bool:
        """Repeat until it works (True) or the program is told to stop (False)."""
        while not self._stop.is_set():
            try:
                attempt()
            except Refusal as error:
                log.info(f"{complaint}: {error}")
                self._stop.wait(CONFIG_RETRY_S + random.uniform(0, _JITTER_S))
            else:
                return True
        return False

    def _usable_identity(self) -> KeyPair | None:
        return self._identity if self._identity.is_usable() else None

    def _fetch_configuration(self, server: TrustedServer) -> None:
        identity = self._usable_identity()
        try:
            json.loads(server.require(f"{PREFIX}config", identity=identity))
        except (K3sError, ValueError) as error:
            raise K3sError(f"failed to retrieve configuration from server: {error}") from error
        for name in ("client-ca.crt", "server-ca.crt"):
            content = server.require(f"{PREFIX}{name}", identity=identity)
            write_atomically(self._settings.agent_dir / name, content)

    def _fetch_node_certificate(self, server: TrustedServer, name: str) -> None:
        """Have a key of our own certified; the key stays here and is kept for the next time."""
        path = f"{PREFIX}{name}.crt"
        request = certificates.create_request(self._settings.agent_dir / f"{name}.key")
        headers = {
            NAME_HEADER: self._settings.node_name,
            PASSWORD_HEADER: ensure_node_password(self._settings.password_file),
            ADDRESS_HEADER: ",".join(self._settings.node_ips),
        }
        identity = self._usable_identity()
        answer = server.call("POST", path, identity=identity, headers=headers, body=request)
        if answer.status == 401 and identity is not None:
            log.info("Node authorization rejected, retrying without client certificate authentication")
            answer = server.call("POST", path, headers=headers, body=request)
        if answer.status == 403:
            raise K3sError(
                "Node password rejected, duplicate hostname or contents of "
                f"'{self._settings.password_file}' may not match server node-passwd entry, "
                "try enabling a unique node name with the --with-node-id flag"
            )
        if answer.status != 200:
            raise K3sError(f"{server.url}{path}: {answer.status_line}")
        write_atomically(self._settings.agent_dir / f"{name}.crt", answer.body)

    def _register(self, server: TrustedServer, machine: MachineFacts) -> None:
        now = time.time()
        node = render_node(self._settings, machine, self._version, now)
        answer = self._kube(server, "POST", "/api/v1/nodes", node)
        if answer.status == 409:
            path = f"/api/v1/nodes/{self._settings.node_name}"
            metadata = render_metadata(self._settings, machine)
            answer = self._kube(server, "PATCH", path, {"metadata": metadata})
            if answer.status == 200:
                status = render_status(self._settings, machine, self._version, now)
                answer = self._kube(server, "PATCH", f"{path}/status", {"status": status})
        if answer.status not in (200, 201):
            raise K3sError(f"{answer.status_line}: {_message(answer)}")

    def _report(self, server: TrustedServer) -> None:
        since = time.time()
        path = f"/api/v1/nodes/{self._settings.node_name}/status"
        next_report = time.monotonic() + HEARTBEAT_S
        while not self._stop.wait(POD_SYNC_S):
            self._run_pods(server)
            if time.monotonic() < next_report:
                continue
            next_report = time.monotonic() + HEARTBEAT_S
            status = {"status": {"conditions": render_conditions(time.time(), since)}}
            try:
                answer = self._kube(server, "PATCH", path, status)
            except TransportError as error:
                log.error(f"Error updating node status, will retry: {error}")
                continue
            if answer.status != 200:
                log.error(f"Error updating node status, will retry: {_message(answer)}")

    def _run_pods(self, server: TrustedServer) -> None:
        """Let the pods that are bound to this node answer, and report those that began to."""
        try:
            answer = self._kube(
                server, "GET", f"/api/v1/pods?fieldSelector=spec.nodeName={self._settings.node_name}"
            )
            pods = json.loads(answer.body)["items"] if answer.status == 200 else []
        except (TransportError, ValueError, KeyError):
            return  # they go on as they are
        address = self._settings.node_ips[0]
        for pod in self._responders.keep(pods):
            metadata = pod["metadata"]
            path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
            try:
                self._kube(server, "PATCH", path, {"status": dict(running_status(address))})
            except TransportError as error:
                log.error(f"Error updating pod status: {error}")

    def _kube(self, server: TrustedServer, method: str, path: str, value: Object | None = None) -> Answer:
        """A call as the kubelet: with its certificate, without the join token."""
        as_kubelet = TrustedServer(server.url, server.cacerts, tokens.NO_TOKEN)
        body = b"" if value is None else json.dumps(value).encode()
        return as_kubelet.call(method, path, identity=self._identity, headers=_STRATEGIC_PATCH, body=body)


def ensure_node_password(file: Path) -> str:
    """What proves that a returning node is the same: 16 random bytes in hex, made on the first start."""
    if not file.exists():
        write_atomically(file, f"{secrets.token_hex(16)}\n".encode())
    return file.read_text("utf-8").strip()


def _message(answer: Answer) -> str:
    try:
        return str(json.loads(answer.body)["message"])
    except (ValueError, KeyError, TypeError):
        return answer.status_line
