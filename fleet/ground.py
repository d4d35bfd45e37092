"""What every part of the controller stands on: the store, the declared cluster, the keys, a clock."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from fleet.events import intent_extended, intent_opened
from fleet.health.pace import SMALL_FLEET, Pace
from fleet.k3s.material import K3sMaterial
from fleet.lifecycle import Happening, State
from fleet.refusal import RefusedError
from fleet.spec.model import ClusterSpec, NodeSpec
from fleet.store.database import Store
from fleet.store.records import IntentRecord, NodeRecord
from fleet.store.transaction import Transaction
from fleet.timeline import Entry
from fleet.trust.pki import ControlPki

INTENT_TTL_S: Final = 24 * 3600.0
KEEPS_INTENT: Final = frozenset({State.IMAGING, State.PENDING})
"""An installer at work, or one that waits for a person: its intent outlives its time, and the state's own
limit without progress watches over it."""
REPEAT_WINDOW_S: Final = 600.0
MAX_REMEMBERED: Final = 4096


class Repeats:
    """Remembers what was said lately: a board that asks every five seconds must not fill the timeline."""

    def __init__(self, window_s: float = REPEAT_WINDOW_S) -> None:
        self._window_s = window_s
        self._said: dict[tuple[str, ...], float] = {}

    def is_new(self, what: tuple[str, ...], now: float) -> bool:
        """Whether `what` was not said within the window; it counts as said from now on."""
        last = self._said.get(what)
        if last is not None and now - last < self._window_s:
            return False
        if len(self._said) >= MAX_REMEMBERED:
            self._said = {key: at for key, at in self._said.items() if now - at < self._window_s}
        if len(self._said) < MAX_REMEMBERED:
            self._said[what] = now
        return True

    def take_back(self, since: float) -> None:
        """Nothing that was said from a moment on was kept: it is new again."""
        self._said = {what: at for what, at in self._said.items() if at < since}


@dataclass(slots=True, kw_only=True, eq=False)
class Ground:
    """Shared by the parts of one controller.

    Attributes:
        spec: Replaced as a whole when another cluster.yaml is applied; nobody keeps parts of it.
        written: cluster.yaml as people wrote it; `spec` has the boards that were replaced since in their
            places (`fleet.reimage.rebind`).
        clock: UTC seconds since 1970.
        random_hex: That many random bytes, as hex.
        on_boot_change: Called after a change of what a node may boot; must not raise or block.
        is_behind: Another server put a newer cluster.yaml in force that could not be taken over yet: nothing
            is ordered that only this one's wants.
        pace: How often nodes report; `fleet.watch` keeps it true.
        started: When this server began to listen, UTC seconds: what happened before is nobody's silence.
    """

    store: Store
    spec: ClusterSpec
    written: ClusterSpec
    pki: ControlPki
    k3s: K3sMaterial
    clock: Callable[[], float]
    random_hex: Callable[[int], str]
    on_boot_change: Callable[[], None]
    repeats: Repeats = field(default_factory=Repeats)
    is_behind: bool = False
    pace: Pace = SMALL_FLEET
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    @property
    def server_name(self) -> str:
        """This server's control URL; its host name where its address is not declared."""
        network = self.written.network
        if network.server_address is None:
            return platform.node()
        return f"https://{network.server_address}:{network.ports.control}"

    def require_spec(self, name: str) -> NodeSpec:
        """The declaration of a node that is in the record.

        Raises:
            RefusedError: Another server's cluster.yaml has it, this one's does not yet.
        """
        node = self.spec.find_node(name)
        if node is None:
            raise RefusedError(
                503,
                "not-declared",
                f"{name} is not in the cluster.yaml that is in force on this server",
                "Ask again in a moment; 'bramble status' says what keeps another server's file from it.",
            )
        return node

    def address_of(self, node: NodeRecord) -> str | None:
        """Where a node is reached: as declared, else as it says itself."""
        declared = self.spec.find_node(node.name)
        if declared is not None and declared.address is not None:
            return str(declared.address)
        told = (node.status or {}).get("addresses") or [None]
        return told[0] if isinstance(told[0], str) else None

    def ensure_intent(
        self, tx: Transaction, node: NodeRecord, now: float
    ) -> tuple[NodeRecord, IntentRecord | None]:
        """The node's usable intent; opened here when a declared, never installed board gives its first sign.

        The consent of cluster.yaml does not end: an expired intent of such a node is extended while it is
        open, because an installer that waits for approval was booted for its number; else another follows.
        "Never installed" is what this store remembers. It may have been lost: a disk with an installation
        that the store does not know of is left alone until a person approves (`InstallDesk.progress`).
        """
        intent = tx.open_intent(node.name)
        if is_usable(intent, now) or not node.state.awaits_install:
            return node, intent if is_usable(intent, now) else None
        if intent is not None and node.state is not State.DECLARED:
            tx.update_intent(intent, expires=now + INTENT_TTL_S)
            entry = intent_extended(intent.number, INTENT_TTL_S)
            tx.add_event(entry, now, node=node.name, board=node.board_id)
            return node, tx.open_intent(node.name)
        intent = self.open_new_intent(tx, node.name, now)
        entry = intent_opened(intent.number, INTENT_TTL_S)
        if node.state is State.DECLARED:
            return tx.move(node, Happening.POWERED_ON, entry, now), intent
        tx.add_event(entry, now, node=node.name, board=node.board_id)
        return node, intent

    def open_new_intent(self, tx: Transaction, name: str, now: float) -> IntentRecord:
        """Permit one installation of the node, under a name that no other one has."""
        return tx.open_new_intent(name, now, INTENT_TTL_S, self.random_hex(16))

    def say_once(self, tx: Transaction, entry: Entry, now: float, *, node: NodeRecord) -> None:
        """Add a timeline entry unless the same was said of this node lately."""
        if self.repeats.is_new((node.name, entry.text), now):
            tx.add_event(entry, now, node=node.name, board=node.board_id)


def is_usable(intent: IntentRecord | None, now: float) -> bool:
    """Whether the intent is open and has not expired."""
    return intent is not None and intent.closed is None and now < intent.expires
