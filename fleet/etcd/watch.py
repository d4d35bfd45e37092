"""Is etcd well? Asked beside everything else, so that status and notifications know it without waiting.

A server can be Ready and its member of etcd unwell: full, out of step, or one of another cluster. What ails a
member shows here before it costs the quorum. Servers that are not Ready have findings of their own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterator
from typing import Final, Protocol

from fleet.attention import EtcdFault
from fleet.errors import FleetError
from fleet.etcd.view import EtcdView, hex_id
from fleet.ground import Ground
from fleet.join.founding import FOUNDED
from fleet.lifecycle import State
from fleet.reimage.server_checks import ghost_problem, ghosts
from fleet.spec.model import Role

LOOK_EVERY_S: Final = 30.0
ANSWER_S: Final = 10.0

log = logging.getLogger(__name__)


class Etcd(Protocol):
    """Who can be asked; `fleet.etcd.door` has it."""

    async def observe(self) -> EtcdView: ...


def faults_of(view: EtcdView, declared: Collection[str], ready: Collection[str]) -> tuple[EtcdFault, ...]:
    """What is wrong, at one look. Pure.

    Args:
        declared: Names of the servers in cluster.yaml.
        ready: Those that Kubernetes calls Ready and nobody takes down: of these the member has to be well.
    """
    return tuple(_faults(view, declared, ready))


def _faults(view: EtcdView, declared: Collection[str], ready: Collection[str]) -> Iterator[EtcdFault]:
    if not view.is_quorate:
        yield EtcdFault(
            subject="",
            text="etcd has no quorum: the cluster takes no change",
            hint="Bring servers back before anything else; do not re-image one of them now.",
        )
    elif view.leader is None:
        yield EtcdFault(
            subject="",
            text="etcd has no leader",
            hint="It chooses one within seconds, where the servers reach each other: look at their network.",
        )
    for where in view.strangers:
        yield EtcdFault(
            subject=where,
            text=f"etcd of another cluster answers at {where}",
            hint="That server founded or joined a cluster of its own: 'bramble show' has its timeline.",
        )
    left_over = ghosts(view, declared)
    for member in view.members:
        if member in left_over:
            problem = ghost_problem(member)
            yield EtcdFault(subject=hex_id(member.id), text=problem.text, hint=problem.hint)
        elif member.node in ready and not member.healthy:
            yield EtcdFault(
                subject=member.node,
                text=f"{member.node} is Ready and its etcd is not well: {member.problem}",
                hint=f"'bramble logs {member.node}' has k3s' own words.",
            )


class EtcdWatch:
    """Looks now and then, and believes what it saw twice.

    Attributes:
        faults: What is wrong; empty where nothing is, where there is no cluster yet, and where k3s is
            simulated on virtual boards, which have no etcd.
    """

    def __init__(self, ground: Ground, etcd: Etcd) -> None:
        self._ground = ground
        self._etcd = etcd
        self._before: tuple[EtcdFault, ...] = ()
        self.faults: tuple[EtcdFault, ...] = ()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self.look()
            except Exception:  # a mistake of ours must not end what the fleet is served by
                log.exception("nobody knows how etcd is")

    async def look(self) -> None:
        """Ask once."""
        with self._ground.store.read() as reader:
            servers = [node for node in reader.nodes() if node.role is Role.SERVER]
            is_founded = reader.value(FOUNDED) is not None
        ready = {node.name for node in servers if node.state is State.READY}
        if not is_founded or not ready or any(node.has_simulated_k3s for node in servers):
            self._before = self.faults = ()
            return
        declared = {node.name for node in self._ground.spec.servers}
        try:
            async with asyncio.timeout(ANSWER_S):
                view = await self._etcd.observe()
        except (FleetError, TimeoutError) as error:
            why = error.message if isinstance(error, FleetError) else f"none within {ANSWER_S:.0f} s"
            found: tuple[EtcdFault, ...] = (
                EtcdFault(
                    subject="",
                    text=f"etcd does not answer this machine: {why}",
                    hint="Without that no server is re-imaged and no snapshot taken. Is tcp port 2379 of the "
                    "servers open to this machine?",
                ),
            )
        else:
            found = faults_of(view, declared, ready)
        seen = {fault.subject for fault in self._before}
        self.faults = tuple(fault for fault in found if fault.subject in seen)
        self._before = found
