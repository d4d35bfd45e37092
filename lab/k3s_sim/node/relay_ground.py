"""A joined server without a datastore: it passes calls on to the first server (relay)."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path

from lab.k3s_sim.node import certificates
from lab.k3s_sim.node.certificates import Authority, Profile
from lab.k3s_sim.node.client import KeyPair
from lab.k3s_sim.node.credentials import Passwords
from lab.k3s_sim.node.critical_config import require_same_configuration
from lab.k3s_sim.node.files import write_atomically
from lab.k3s_sim.node.https_server import certificate_subject
from lab.k3s_sim.node.messages import Application
from lab.k3s_sim.node.relay import PROXY_USER, Relay, join_cluster
from lab.k3s_sim.node.settings import ServerSettings


@dataclass
class RelayGround:
    """See server.Ground."""

    settings: ServerSettings
    _url: str = field(default="", init=False)

    @property
    def joined(self) -> Path:
        """Written once the server has joined; says where."""
        return self.settings.server_dir / "db" / "joined.json"

    def prepare(self) -> None:
        """See server.Ground."""
        if self.joined.exists():
            self._url = self.settings.join_url or str(json.loads(self.joined.read_text("utf-8"))["url"])
            return
        self._url = self.settings.join_url
        join_cluster(self._url, self.settings.token, self.settings.server_dir)
        require_same_configuration(
            self._url, self.settings.agent_token, self.settings.token, self.settings.critical
        )
        write_atomically(self.joined, json.dumps({"url": self._url}).encode())

    def application(self, passwords: Passwords) -> Application:
        """See server.Ground."""
        tls = self.settings.server_dir / "tls"
        proxy = KeyPair(tls / "client-auth-proxy.crt", tls / "client-auth-proxy.key")
        authority = Authority.in_directory(tls, "request-header-ca")
        certificates.issue(authority, Profile(PROXY_USER, client=True), proxy.certificate, proxy.key)
        return Relay(self._url, tls, proxy, certificate_subject(authority.certificate))

    def settle(self, stop: threading.Event) -> bool:
        """See server.Ground."""
        return not stop.is_set()

    def look_after(self, now: float, clock: float) -> None:
        """See server.Ground."""

    def close(self) -> None:
        """See server.Ground."""
