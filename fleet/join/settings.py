"""What k3s keeps on a node once it has joined, and the order to take up something else.

k3s reads its settings when it starts. They name a server, and servers come and go: so every joined node is
told again whenever what it should keep has changed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from agent.protocol import NodeFile
from fleet import events
from fleet.ground import Ground
from fleet.join.founding import awaited_founder
from fleet.join.registration import ServerSeen, choose_server
from fleet.join.state import JoinState
from fleet.join.turn import WANTS_TO_JOIN, has_material
from fleet.k3s.config import API_PORT, kept_files, settings_digest
from fleet.k3s.versions import K3sVersion
from fleet.lifecycle import State
from fleet.spec.model import NodeSpec, Role
from fleet.store.records import NodeRecord


class KeptSettings:
    """Of all nodes of the cluster."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._reconciled: object = None
        self.virtual: str | None = None
        """URL of the API's own address, while that answers."""

    def reconcile(self) -> None:
        """Give every joined node the settings that it should keep: other servers come, and servers leave.

        Cheap while nothing changed. The order that a node gets names the new settings; k3s reads them when it
        starts the next time. Nothing while another server has a newer cluster.yaml: the two would take turns.
        """
        if self._ground.is_behind:
            return
        with self._ground.store.read() as reader:
            records = reader.nodes()
            servers = self._servers(records)
            declared = {node.name for node in self._ground.spec.nodes}
            joined = [node for node in records if has_material(node) and node.name in declared]
            seen = (self._ground.spec, self.virtual, servers, frozenset(node.name for node in joined))
            if seen == self._reconciled:
                return
            states = JoinState.load_all(reader)
            founder = awaited_founder(reader)
        changes = []
        for node in joined:
            join = states.get(node.name, JoinState())
            wanted = self._aim(node, join, servers, founder)
            if wanted != join:
                changes.append((node, join, wanted))
        if changes:
            self._order_settings(changes)
        self._reconciled = seen

    def kept(self, node: NodeRecord, server: str | None) -> tuple[NodeFile, ...]:
        """The files for a node that finds the cluster at `server`; None: by itself."""
        spec = self.spec_of(node)
        return kept_files(
            self._ground.spec,
            spec,
            server,
            address=str(spec.address) if spec.address else None,
            version=self.k3s_of(node),
        )

    def digest(self, node: NodeRecord, server: str | None) -> str:
        """Of those files."""
        return settings_digest(self.kept(node, server))

    def spec_of(self, node: NodeRecord) -> NodeSpec:
        """As declared, in the role that it was installed in."""
        return dataclasses.replace(self._ground.require_spec(node.name), role=node.role)

    def k3s_of(self, node: NodeRecord) -> K3sVersion | None:
        """The k3s that runs there: after an upgrade was declared it is the older one for a while."""
        told = K3sVersion.find(str((node.status or {}).get("k3s_version") or ""))
        return told or K3sVersion.find(self._ground.spec.k3s.version)

    def server_for(self, node: NodeRecord, records: Iterable[NodeRecord]) -> str | None:
        """Where a node that is about to join finds the cluster; None where no server can be joined."""
        return choose_server(node.name, None, self._servers(records), self.virtual)

    def _aim(
        self, node: NodeRecord, join: JoinState, servers: tuple[ServerSeen, ...], founder: str | None
    ) -> JoinState:
        server = choose_server(node.name, join.server, servers, self.virtual)
        if server is None and node.role is Role.AGENT:
            server = join.server  # an agent without one does not start
        if node.state in WANTS_TO_JOIN and (server == join.server or server is None or node.name == founder):
            return join  # it has its material; only where it is to go may change while it joins
        return dataclasses.replace(join, server=server, settings=self.digest(node, server))

    def _order_settings(self, changes: Iterable[tuple[NodeRecord, JoinState, JoinState]]) -> None:
        now = self._ground.clock()
        with self._ground.store.write() as tx:
            for stale, before, wanted in changes:
                node = tx.require_node(stale.name)
                if not has_material(node) or JoinState.load(tx, node.name) != before:
                    continue  # it moved on meanwhile; the next round looks again
                if node.state in WANTS_TO_JOIN:
                    wanted = dataclasses.replace(wanted, material=node.generation + 1)
                wanted.save(tx, node.name)
                tx.update_node(node, generation=node.generation + 1)
                if wanted.server != before.server:
                    entry = events.server_changed(wanted.server)
                    tx.add_event(entry, now, node=node.name, board=node.board_id)

    def _servers(self, records: Iterable[NodeRecord]) -> tuple[ServerSeen, ...]:
        """The declared servers; one that is degraded counts as up while none is Ready."""
        known = [
            node
            for node in records
            if node.role is Role.SERVER
            and self._ground.spec.find_node(node.name) is not None
            and self._ground.address_of(node)
        ]
        best = State.READY if any(node.state is State.READY for node in known) else State.DEGRADED
        return tuple(
            ServerSeen(node.name, f"https://{self._ground.address_of(node)}:{API_PORT}", node.state is best)
            for node in known
        )
