"""A server that stands on etcd: it starts the cluster, joins one, goes on with its data, or is reset."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from lab.k3s_sim.node import credentials, etcd_member, log
from lab.k3s_sim.node.auto_deploy import AutoDeploy
from lab.k3s_sim.node.bootstrap_data import keep_bootstrap_data, restore_bootstrap_data
from lab.k3s_sim.node.client import TrustedServer
from lab.k3s_sim.node.cluster import SYSTEM_NAMESPACE, Cluster
from lab.k3s_sim.node.controllers import Controllers
from lab.k3s_sim.node.credentials import Passwords
from lab.k3s_sim.node.critical_config import require_same_configuration
from lab.k3s_sim.node.datastore import FileDatastore
from lab.k3s_sim.node.errors import K3sError, StatusError
from lab.k3s_sim.node.etcd_client import EtcdClient, EtcdError, Member
from lab.k3s_sim.node.etcd_controllers import EtcdControllers, require_voter
from lab.k3s_sim.node.etcd_datastore import EtcdDatastore
from lab.k3s_sim.node.etcd_join import join_etcd
from lab.k3s_sim.node.etcd_member import EtcdMember, InitialCluster
from lab.k3s_sim.node.local_cluster import local_cluster
from lab.k3s_sim.node.messages import Application
from lab.k3s_sim.node.node_password import secret_name
from lab.k3s_sim.node.objects import Object
from lab.k3s_sim.node.relay import join_cluster
from lab.k3s_sim.node.settings import ServerSettings
from lab.k3s_sim.node.simulation import Simulation

_TEST_S = 0.5
"""How often a start asks whether its member votes yet; k3s asks every five seconds."""
_COMPLAIN_S = 5.0
_CONTROL_STOP_S = 2.0
_RESET_DONE = (
    "Managed etcd cluster membership has been reset, restart without --cluster-reset flag now. Backup and "
    "delete ${datadir}/server/db on each peer etcd server and rejoin the nodes"
)
_RESET_BEFORE = (
    "Managed etcd cluster membership was previously reset, please remove the cluster-reset flag and "
    "start k3s normally. If you need to perform another cluster reset, you must first manually "
    "delete the file at {}"
)


class EtcdGround:
    """See server.Ground."""

    def __init__(
        self, settings: ServerSettings, version: str, simulation: Simulation, programs: Path
    ) -> None:
        self._settings = settings
        self._version = version
        self._simulation = simulation
        agent = settings.agent
        self._tls = settings.server_dir / "tls"
        self._member = EtcdMember(
            programs, settings.server_dir, self._tls, agent.node_name, agent.node_ips[0]
        )
        self._server: TrustedServer | None = None
        self._client: EtcdClient | None = None
        self._cluster: Cluster | None = None
        self._password = ""
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def is_wanted(self) -> bool:
        """Whether a server with these settings and this directory stands on etcd."""
        settings = self._settings
        asked = settings.cluster_init or settings.join_url or settings.cluster_reset
        return bool(asked) or self._member.is_initialized

    def prepare(self) -> None:
        """See server.Ground.

        Whether there is a cluster to join is decided by the data that are there before those of a removed
        member are moved aside: one that has no token any more is asked for none, and begins a cluster of its
        own under the CA that it has. Source: k3s issue 13623; seen on v1.21.3 (docs/proven.md).
        """
        settings = self._settings
        seems_to_be_member = self._member.is_initialized
        self._member.move_aside_if_removed()
        joins = bool(settings.join_url) and not settings.cluster_reset
        if seems_to_be_member and not settings.token:
            joins = False
        if joins and not self._member.is_initialized:
            self._server = join_cluster(settings.join_url, settings.token, settings.server_dir)
            require_same_configuration(
                settings.join_url, settings.agent_token, settings.token, settings.critical
            )
        names = (*credentials.AUTHORITIES, *etcd_member.AUTHORITIES)
        credentials.ensure_authorities(self._tls, names)
        self._member.issue_certificates()

    def application(self, passwords: Passwords) -> Application:
        """See server.Ground."""
        self._client = self._member.client()
        self._cluster = Cluster(EtcdDatastore(self._client))
        self._password = passwords.server
        return local_cluster(self._settings, self._version, self._cluster, passwords, self._members)

    def _members(self) -> list[Object]:
        """For /db/info: who is in the cluster, or at least who we are."""
        assert self._client is not None
        try:
            members = self._client.members(timeout_s=2.0)
        except EtcdError:
            own = self._member
            members = [Member(0, own.name, (own.peer_url,), (own.client_url,), False)]
        return [member.to_json() for member in members]

    def settle(self, stop: threading.Event) -> bool:
        """See server.Ground."""
        assert self._client is not None
        assert self._cluster is not None
        if self._settings.cluster_reset:
            self._reset(stop)
            return False
        was_reset = self._member.reset_flag.exists()
        self._member.reset_flag.unlink(missing_ok=True)
        if not self._start(stop) or not self._wait_for_vote(stop):
            return False
        self._open(self._cluster, self._client)
        if was_reset:
            self._forget_own_password(self._cluster)
        controllers = Controllers(self._cluster, self._simulation.orphan_age_s)
        node = "" if self._settings.disable_agent else self._settings.agent.node_name
        members = EtcdControllers(
            self._cluster, self._member, self._client, node, self._simulation.learner_stall_s
        )
        manifests = AutoDeploy(self._settings.server_dir / "manifests", self._cluster)
        self._thread = threading.Thread(
            target=self._control, args=(controllers, members, manifests), name="controllers", daemon=True
        )
        self._thread.start()
        return True

    def _open(self, cluster: Cluster, client: EtcdClient) -> None:
        """Make this etcd the cluster of our token, with what a file held before.

        Raises:
            K3sError: it is the cluster of another token, or etcd went away.
        """
        try:
            keep_bootstrap_data(client, self._settings.server_dir, self._password)
            self._migrate(EtcdDatastore(client))
            cluster.prepare()
        except (EtcdError, StatusError) as error:
            raise K3sError(f"failed to open the datastore: {error}") from error

    def _migrate(self, datastore: EtcdDatastore) -> None:
        """A server that began without etcd and was told `cluster-init` takes its objects along."""
        file = self._settings.server_dir / "db" / "sim.json"
        if not file.exists():
            return
        log.info("Migrating content from sqlite to etcd")
        for key, value in FileDatastore(file).everything().items():
            datastore.swap(key, value, 0)
        file.rename(file.with_name(f"{file.name}.migrated"))

    def _forget_own_password(self, cluster: Cluster) -> None:
        """The password on this disk may be newer than the one in the snapshot."""
        name = secret_name(self._settings.agent.node_name)
        if cluster.find("secrets", SYSTEM_NAMESPACE, name) is not None:
            cluster.delete("secrets", SYSTEM_NAMESPACE, name)

    def _start(self, stop: threading.Event) -> bool:
        if self._member.is_initialized:
            log.info("Starting etcd for existing cluster member")
            self._member.start(None)
            return True
        if self._server is None:
            own = f"{self._member.name}={self._member.peer_url}"
            self._member.start(InitialCluster(own, "new"))
            return True
        initial = join_etcd(self._server, self._member, self._settings.agent.node_name, stop)
        if initial is None:
            return False
        self._member.start(initial)
        return True

    def _wait_for_vote(self, stop: threading.Event) -> bool:
        assert self._client is not None
        complained = 0.0
        while not stop.is_set():
            self._require_running()
            try:
                require_voter(self._member, self._client)
            except EtcdError as error:
                if time.monotonic() - complained > _COMPLAIN_S:
                    log.info(f"Failed to test data store connection: {error}")
                    complained = time.monotonic()
            else:
                log.info("etcd data store connection OK")
                return True
            stop.wait(_TEST_S)
        return False

    def _require_running(self) -> None:
        """etcd's end is ours.

        Raises:
            K3sError: it has ended.
        """
        if self._member.is_removed():
            self._member.bury()
            raise K3sError("leaderelection lost for k3s")
        reason = self._member.exit_reason()
        if reason is not None:
            raise K3sError(reason)

    def _control(self, controllers: Controllers, members: EtcdControllers, manifests: AutoDeploy) -> None:
        """Controllers of two kinds, each at its own pace. What fails is done the next time."""
        due = {"members": 0.0, "objects": 0.0}
        while not self._stop.wait(0.1):
            clock = time.monotonic()
            try:
                if clock >= due["members"]:
                    due["members"] = clock + self._simulation.manage_s
                    members.run(time.time())
                if clock >= due["objects"]:
                    due["objects"] = clock + self._simulation.tick_s
                    manifests.run()
                    controllers.run(time.time(), clock)
            except (EtcdError, StatusError) as error:
                log.error(f"error syncing etcd members and nodes: {error}, requeuing")

    def look_after(self, now: float, clock: float) -> None:
        """See server.Ground. The controllers have a thread of their own: etcd may keep them waiting."""
        self._require_running()

    def close(self) -> None:
        """See server.Ground."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_CONTROL_STOP_S)
        if self._client is not None:
            self._client.close()
        self._member.stop()

    def _reset(self, stop: threading.Event) -> None:
        """Make this member a cluster of its own, with its data or with those of a snapshot; then end."""
        path = self._settings.cluster_reset_restore_path
        if path is not None:
            if not path.exists():
                raise K3sError(f"etcd: snapshot path does not exist: {path}")
            if path.is_dir():
                raise K3sError(f"etcd: snapshot path must be a file, not a directory: {path}")
            self._member.restore_snapshot(path)
        elif self._member.reset_flag.exists():
            raise K3sError(_RESET_BEFORE.format(self._member.reset_flag))
        elif not self._member.is_initialized:
            raise K3sError("cluster-reset was asked for, and there is no etcd data to reset")
        else:
            self._member.start(None, alone=True)
            self._correct_address(stop)
            self._member.stop()
            if stop.is_set():
                return
            self._member.take_data_along()
        self._member.start(None)
        self._correct_address(stop)
        if self._wait_for_vote(stop):
            assert self._client is not None
            restore_bootstrap_data(self._client, self._settings.server_dir, self._password)
            self._member.reset_flag.touch(mode=0o600)
            log.info(_RESET_DONE)

    def _correct_address(self, stop: threading.Event) -> None:
        """The only member left may carry an address that its node no longer has."""
        assert self._client is not None
        while not stop.wait(_TEST_S):
            self._require_running()
            try:
                members = self._client.members(timeout_s=2.0)
                if len(members) == 1:
                    self._client.update_peer_url(members[0].id, self._member.peer_url)
                    return
            except EtcdError as error:
                log.warning(f"failed to list etcd members: {error}")
