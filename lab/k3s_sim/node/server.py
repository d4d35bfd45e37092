"""The server: authorities, tokens, certificates, the HTTPS socket, and an agent for its own node.

What it stands on is decided at the first start and kept on disk; later starts ignore `cluster-init` and
`server`, as k3s does once its datastore exists:

    etcd    where the simulation has etcd: a member of its own          etcd_ground
    file    the first or only server, where it has none                 file_ground
    relay   any other server, where it has none: passes calls on        relay
"""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from typing import Protocol

from lab.k3s_sim.node import credentials, log, notify, tokens
from lab.k3s_sim.node.agent import Agent
from lab.k3s_sim.node.client import TransportError, TrustedServer
from lab.k3s_sim.node.credentials import Passwords
from lab.k3s_sim.node.errors import K3sError
from lab.k3s_sim.node.https_server import HttpsServer, server_context
from lab.k3s_sim.node.messages import Application
from lab.k3s_sim.node.node_object import require_allowed_labels
from lab.k3s_sim.node.settings import ServerSettings
from lab.k3s_sim.node.simulation import Simulation

_LOOK_S = 0.5
_CONTROL_PLANE_LABELS = {
    "node-role.kubernetes.io/control-plane": "true",
    "node-role.kubernetes.io/master": "true",
}


class Ground(Protocol):
    """What a server stands on. Methods are called in this order, by the main thread."""

    def prepare(self) -> None:
        """Have the cluster's authorities in place."""

    def application(self, passwords: Passwords) -> Application:
        """What answers; it may refuse until the ground is settled."""

    def settle(self, stop: threading.Event) -> bool:
        """Wait until calls can be answered; False if there is nothing to go on for."""

    def look_after(self, now: float, clock: float) -> None:
        """Called twice a second: background work that is due. K3sError ends the server."""

    def close(self) -> None:
        """Let go."""


class Server:
    """One server process. `run` returns when `stop` is set."""

    def __init__(
        self,
        settings: ServerSettings,
        version: str,
        stop: threading.Event,
        simulated: Simulation | None = None,
    ) -> None:
        self._settings = settings
        self._version = version
        self._stop = stop
        self._simulation = simulated or Simulation()
        self._tls = settings.server_dir / "tls"

    def run(self) -> None:
        """Start everything, tell systemd, then run the background controllers until stopped.

        Raises:
            K3sError: the start failed, or the server can not go on.
        """
        if not self._settings.disable_agent:
            require_allowed_labels(self._settings.agent)
        ground = self._choose_ground()
        try:
            self._run_on(ground)
        finally:
            ground.close()

    def _run_on(self, ground: Ground) -> None:
        ground.prepare()
        passwords = credentials.ensure_passwords(self._settings)
        credentials.issue_certificates(self._settings)
        self._listen(ground.application(passwords))
        if not ground.settle(self._stop):
            return
        credentials.write_kubeconfig(self._settings, self._own_url)
        log.info("k3s is up and running")
        notify.ready()
        if not self._settings.disable_agent:
            threading.Thread(target=self._run_agent, args=(passwords,), name="agent", daemon=True).start()
        while not self._stop.wait(_LOOK_S):
            ground.look_after(time.time(), time.monotonic())

    def _choose_ground(self) -> Ground:
        """Imports are here because a virtual board pays for each one that it does not need."""
        if self._simulation.etcd is not None:
            from lab.k3s_sim.node.etcd_ground import EtcdGround

            ground = EtcdGround(self._settings, self._version, self._simulation, self._simulation.etcd)
            if ground.is_wanted():
                return ground
        if self._settings.cluster_reset:
            raise K3sError("cluster-reset needs etcd, and this simulation has none")
        from lab.k3s_sim.node.file_ground import FileGround

        file_ground = FileGround(self._settings, self._version, self._simulation)
        if self._settings.join_url and not file_ground.database.exists():
            from lab.k3s_sim.node.relay_ground import RelayGround

            return RelayGround(self._settings)
        if not file_ground.database.exists() and (self._settings.server_dir / "db" / "joined.json").exists():
            from lab.k3s_sim.node.relay_ground import RelayGround

            return RelayGround(self._settings)
        return file_ground

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
        path = f"/api/v1/nodes/{self._settings.agent.node_name}"
        body = json.dumps({"metadata": {"labels": _CONTROL_PLANE_LABELS}}).encode()
        headers = {"Content-Type": "application/merge-patch+json"}
        anonymous = TrustedServer(server.url, server.cacerts, tokens.NO_TOKEN)
        try:
            answer = anonymous.call(
                "PATCH", path, identity=credentials.admin_pair(self._tls), headers=headers, body=body
            )
        except TransportError as error:
            raise K3sError(f"unable to label node: {error}") from error
        if answer.status != 200:
            raise K3sError(f"unable to label node: {answer.status_line}")
