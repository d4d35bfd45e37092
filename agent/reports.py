"""What the node says of itself: one report of everything, with what the server may do nothing without."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from agent import __version__
from agent.addresses import read_address
from agent.hardware import read_interfaces
from agent.host import Host, read_image_id
from agent.join_gates import find_data_disk, measure_sync_ms
from agent.k3s import K3s
from agent.membership import describe_loss
from agent.notes import Notes
from agent.plan import Observed, lost_membership
from agent.protocol import Hardware, K3sState, Problem, Status
from agent.sampler import Sampler
from agent.state import AgentState, NodeConfig

BOOT_MODE_NETWORK = 2


class Reports:
    """Composes reports. Owns the sampler, and what is measured once."""

    def __init__(self, config: NodeConfig, host: Host, k3s: K3s, *, hardware: Hardware, boot_id: str) -> None:
        self._config = config
        self._host = host
        self._k3s = k3s
        self._hardware = hardware
        self._boot_id = boot_id
        self.image_id = read_image_id(host.root)
        self._sampler = Sampler(host.root, host.run)
        self._sync_ms: float | None = None

    def find_problems(self, observed: Observed) -> list[Problem]:
        """What keeps this node from joining, or from running k3s."""
        join, desired = observed.join, observed.desired
        found = [*observed.gates] if desired is not None and desired.join and not join else []
        if join is not None:
            # A clock that was years ahead when it was noted would hide the journal for as long.
            since = join.started_at if join.started_at <= self._host.now() else 0.0
            problem = self._k3s.problem(observed.k3s, since=since)
            found += [] if problem is None else [problem]
        if self._k3s.trouble is not None:
            found.append(self._k3s.trouble)
        if lost_membership(observed):
            found.append(describe_loss(self._config.node, self._config.role))
        return found

    def compose(
        self,
        observed: Observed,
        state: AgentState,
        notes: Notes,
        problems: Sequence[Problem],
        *,
        sequence: int,
        behind_s: float | None,
    ) -> tuple[Status, int]:
        """The report, and how many of the notes are in it.

        Raises:
            AgentError: /proc is not mounted.
        """
        noted, kept = notes.beside(problems)
        status = Status(
            sequence=sequence,
            boot_id=self._boot_id,
            hardware=self._hardware,
            health=self._sampler.sample(
                k3s_runs=observed.k3s is K3sState.RUNNING,
                is_server=self._config.role == "server",
                behind_s=behind_s,
            ),
            addresses=self._addresses(),
            k3s=observed.k3s,
            k3s_version=None if observed.k3s is K3sState.ABSENT else self._k3s.version(),
            generation=state.generation,
            problems=(*noted, *kept),
            disk_boot=self._hardware.boot_mode != BOOT_MODE_NETWORK,
            image_id=self.image_id,
            agent_version=__version__,
            material=state.join.generation if state.join else 0,
            disk_sync_ms=self._disk_sync_ms(state),
            agent_release=self._host.release,
        )
        return status, len(noted)

    def _disk_sync_ms(self, state: AgentState) -> float | None:
        """Measured once, on a server that has not joined: etcd's own writes tell it afterwards."""
        if self._sync_ms is None and self._config.role == "server" and state.join is None:
            with contextlib.suppress(OSError):  # a disk that fails tells that otherwise
                self._sync_ms = measure_sync_ms(find_data_disk(self._host.root))
        return self._sync_ms

    def _addresses(self) -> tuple[str, ...]:
        found = (read_address(interface.name) for interface in read_interfaces(self._host.root))
        return tuple(address for address in found if address is not None)
