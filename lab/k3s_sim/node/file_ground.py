"""A server whose objects are in a file: the only one of its cluster, or one that others relay to.

It stands for two things. Without `cluster-init` it is what k3s is on SQLite. With it, it stands for etcd
where there is none, as on virtual boards: the servers' nodes then say what k3s says of etcd's members
(annotations, the condition EtcdIsVoter), and a member that is removed is one in name only.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from lab.k3s_sim.node import credentials, log
from lab.k3s_sim.node.auto_deploy import AutoDeploy
from lab.k3s_sim.node.cluster import Cluster
from lab.k3s_sim.node.controllers import Controllers
from lab.k3s_sim.node.credentials import Passwords
from lab.k3s_sim.node.datastore import FileDatastore
from lab.k3s_sim.node.errors import StatusError
from lab.k3s_sim.node.local_cluster import local_cluster
from lab.k3s_sim.node.members_in_name import look_after_members
from lab.k3s_sim.node.messages import Application
from lab.k3s_sim.node.settings import ServerSettings
from lab.k3s_sim.node.simulation import Simulation


@dataclass
class FileGround:
    """See server.Ground."""

    settings: ServerSettings
    version: str
    simulation: Simulation
    _controllers: Controllers | None = field(default=None, repr=False)
    _manifests: AutoDeploy | None = field(default=None, repr=False)
    _next_run: float = 0.0

    @property
    def database(self) -> Path:
        """The file; where it is, this server stands on it."""
        return self.settings.server_dir / "db" / "sim.json"

    def prepare(self) -> None:
        """See server.Ground."""
        credentials.ensure_authorities(self.settings.server_dir / "tls", credentials.AUTHORITIES)

    def application(self, passwords: Passwords) -> Application:
        """See server.Ground."""
        cluster = Cluster(FileDatastore(self.database))
        cluster.prepare()
        self._controllers = Controllers(cluster, self.simulation.orphan_age_s)
        self._manifests = AutoDeploy(self.settings.server_dir / "manifests", cluster)
        return local_cluster(self.settings, self.version, cluster, passwords)

    def settle(self, stop: threading.Event) -> bool:
        """See server.Ground."""
        return not stop.is_set()

    def look_after(self, now: float, clock: float) -> None:
        """See server.Ground."""
        if self._controllers is None or self._manifests is None or clock < self._next_run:
            return
        self._next_run = clock + self.simulation.tick_s
        try:
            self._manifests.run()
            self._controllers.run(now, clock)
            look_after_members(self._controllers.cluster, now, self.settings.cluster_init)
        except StatusError as error:
            log.error(f"error syncing nodes: {error}, requeuing")

    def close(self) -> None:
        """See server.Ground."""
