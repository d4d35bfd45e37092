"""The application of a server that has the cluster's objects at hand: supervisor, then Kubernetes API."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lab.k3s_sim.node.auth import Authenticator
from lab.k3s_sim.node.cluster import SYSTEM_NAMESPACE, Cluster
from lab.k3s_sim.node.credentials import Passwords
from lab.k3s_sim.node.https_server import certificate_subject
from lab.k3s_sim.node.kube_api import KubeApi
from lab.k3s_sim.node.messages import Request, Response
from lab.k3s_sim.node.objects import Object
from lab.k3s_sim.node.settings import ServerSettings
from lab.k3s_sim.node.supervisor import Supervisor


@dataclass(frozen=True)
class LocalCluster:
    """The two, one after the other."""

    supervisor: Supervisor
    api: KubeApi

    def handle(self, request: Request) -> Response:
        """The supervisor's routes first, the rest is the Kubernetes API's."""
        return self.supervisor.handle(request) or self.api.handle(request)


def local_cluster(
    settings: ServerSettings,
    version: str,
    cluster: Cluster,
    passwords: Passwords,
    members: Callable[[], list[Object]] | None = None,
) -> LocalCluster:
    """The application over `cluster`; `members` answers /db/info, where the datastore is etcd."""
    directory = settings.server_dir
    authenticator = Authenticator(
        {"server": passwords.server, "node": passwords.agent},
        lambda name: cluster.find("secrets", SYSTEM_NAMESPACE, name),
        certificate_subject(directory / "tls" / "request-header-ca.crt"),
    )
    supervisor = Supervisor(
        directory,
        cluster,
        authenticator,
        settings.https_port,
        settings.agent.node_ips,
        members,
        settings.critical,
    )
    return LocalCluster(supervisor, KubeApi(cluster, authenticator, version))
