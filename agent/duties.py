"""Numbered orders that a person gave: carried out once, whatever happens in between, and told of.

The number is noted before, where a repeat would do harm (EEPROM), or after, where only the end counts
(another release of the agent). What became of an order goes into the next report.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from agent import __version__
from agent.client import ControlClient, Refused, Unreachable
from agent.commands import Runner
from agent.errands import LOGS, RUN, Errand
from agent.errors import AgentError
from agent.files import disk_errors
from agent.hardware import ROOT
from agent.orders import EEPROM, ERRAND, REBOOT, UPDATE, AgentOrder, SignedOrder
from agent.protocol import EepromOrder, Hardware, RebootOrder
from agent.recovery import Restore
from agent.ring import Ring
from agent.state import StateStore
from agent.update import Releases, refuse_unsuitable
from agent.verify import OrderVerifier

log = logging.getLogger("bramble.agent")
RESTORE_INTERVAL_S = 3.0

REBOOT_REFUSED = "reboot_refused"
"""Problem code of a restart that would not reach the installer."""
REBOOT_WITHDRAWN = "reboot_withdrawn"
"""Problem code of a restart that the server did not want any more when it heard that it begins."""

Note = Callable[[str, str, str], None]
"""(code, message, hint): say it in the next report."""


@dataclass(frozen=True)
class Place:
    """Where orders are carried out. `release` is the digest of the zipapp that runs."""

    state_directory: Path
    run: Runner
    hardware: Hardware
    release: str
    may_run: bool = False
    """Whether this node's image lets the control server run commands."""
    ring: Ring = dataclasses.field(default_factory=Ring)
    root: Path = ROOT


class Duties:
    """Carries out orders. Shares the service's client and state file."""

    def __init__(
        self, orders: OrderVerifier, client: ControlClient, store: StateStore, place: Place, note: Note
    ) -> None:
        self.orders = orders
        self._client = client
        self._store = store
        self._place = place
        self._note = note
        self._releases = Releases(place.state_directory)
        self._was_heard = False
        self._prepared = 0
        """Number of the order on which the board is ready to restart; 0: of none."""
        self.done_errand = 0
        """The last errand that was done, or is not to be done again."""

    def begin(self) -> None:
        """At the start: tell how the last change of this program ended.

        Its number is used up, whoever is left to say so.
        """
        self.done_errand = max(self.done_errand, self._store.state.errand)
        outcome = self._releases.outcome()
        if outcome is None:
            return
        if outcome.confirmed:
            self._note("agent_updated", f"order {outcome.number}: agent {outcome.version} runs", "")
        else:
            text = f"order {outcome.number}: agent {outcome.version} was given up, {outcome.reason}"
            hint = "'journalctl -u bramble-agent' on the node tells what it said."
            self._note("agent_rolled_back", text, hint)
        state = self._store.state
        if outcome.number > state.update:
            with contextlib.suppress(AgentError):  # in memory it holds; the disk is reported otherwise
                self._store.save(dataclasses.replace(state, update=outcome.number))

    def was_heard(self) -> None:
        """The server took a report of this release: it stays, and the one before it is told of."""
        if self._was_heard:
            return
        try:
            self._releases.told()
            with disk_errors():
                self._confirm()
        except AgentError as exc:
            log.error("%s", exc.message)  # tried again with the next report, until the trial's time is over

    def _confirm(self) -> None:
        if self._releases.confirm(self._place.release):
            self.begin()
        else:
            self._was_heard = True

    def restore(self, order: Restore | None, root: Path) -> str:
        """Bring etcd's data back before k3s starts; what is waited for, or "" where nothing is (any more)."""
        if order is None:
            return ""
        from agent.restore import PIECE_BYTES, advance  # once in a cluster's life

        def fetch(recovery: str, offset: int) -> bytes:
            return self._client.download(f"/v1/node/restore/{recovery}?offset={offset}", PIECE_BYTES)

        return advance(root, self._place.run, fetch, order)

    def write_eeprom(self) -> None:
        """Carry the order out, once: what became of it is said in the next report, whatever it was."""
        from agent.eeprom import carry_out  # years may pass between two orders

        order = self.orders.open(self._client.get("/v1/node/eeprom", SignedOrder), EEPROM, EepromOrder)
        if order.number <= self._store.state.eeprom:
            return
        # Before it is begun: a board that fails in the middle of it must not begin again by itself.
        self._store.save(dataclasses.replace(self._store.state, eeprom=order.number))
        place = self._place
        try:
            written = carry_out(order, place.hardware, place.run, place.state_directory)
        except AgentError as exc:
            self._note("eeprom_refused", f"order {order.number}: {exc.message}", exc.hint)
            return
        if written.changes:
            text = f"order {order.number} is written, {'; '.join(written.changes)}"
            self._note("eeprom_written", text, "It takes effect when the board restarts.")
        else:
            self._note("eeprom_unchanged", f"order {order.number}: the EEPROM holds all of it already", "")

    def reboot(self) -> None:
        """Get ready to restart into the installer, once; the restart follows the report that says so."""
        from agent.reboot import prepare  # once in a node's life

        order = self.orders.open(self._client.get("/v1/node/reboot", SignedOrder), REBOOT, RebootOrder)
        if order.number <= self._store.state.reboot:
            return
        # Before it is begun: a board that comes up in its old system again must not restart by itself.
        try:
            self._store.save(dataclasses.replace(self._store.state, reboot=order.number))
        except AgentError as exc:
            # Such a disk is what it is to be installed anew for. The server names an order to one start only.
            log.warning("order %d to restart is carried out unnoted: %s", order.number, exc.message)
        place = self._place
        try:
            prepared = prepare(order, place.hardware, place.run, place.root)
        except AgentError as exc:
            self._note(REBOOT_REFUSED, f"order {order.number}: {exc.message}", exc.hint)
            return
        self._note("reboot_begins", f"order {order.number}: the board {prepared.text}", "")
        self._prepared = order.number

    def restart_if_due(self, wanted: int) -> None:
        """Restart the board, where that was prepared, the server has been told, and still wants it.

        Args:
            wanted: Number of the order that stands, as the server answered to the report; 0: none does.

        Raises:
            AgentError: The service manager refuses.
        """
        number, self._prepared = self._prepared, 0
        if not number:
            return
        if wanted != number:
            log.warning("order %d to restart was withdrawn, the board stays up", number)
            text = f"order {number} was withdrawn before the board restarted; it stays up"
            # The boot order for one start can not be taken back: its register is the firmware's.
            hint = "Its next restart may ask the network once before it starts from its disk."
            self._note(REBOOT_WITHDRAWN, text, hint)
            return
        from agent.reboot import RESTART_WORDS

        log.warning("the board restarts into the installer, on order of the control server")
        self._place.run(list(RESTART_WORDS))

    def do_errand(self, number: int) -> None:
        """Answer the person who waits. One that can not be answered is not begun again: they ask anew."""
        self.done_errand = max(self.done_errand, number)
        try:
            self._answer_errand(number)
        except Refused as exc:
            if exc.status != HTTPStatus.NOT_FOUND:
                raise
            log.info("errand %d: nobody waits for it any more", number)

    def _answer_errand(self, number: int) -> None:
        errand = self.orders.open(self._client.get("/v1/node/errand", SignedOrder), ERRAND, Errand)
        if errand.number < number or errand.number <= self._store.state.errand:
            return
        self.done_errand = max(self.done_errand, errand.number)
        if errand.kind == LOGS:
            from agent.logs import collect

            self._client.send("/v1/node/logs", collect(errand, self._place.run, self._place.ring))
        elif errand.kind == RUN:
            from agent.remote_run import carry_out

            # Before it is begun: a command is never run twice, whatever becomes of the answer.
            self._store.save(dataclasses.replace(self._store.state, errand=errand.number))
            log.warning("runs for the control server: %s", shlex.join(errand.argv))
            self._client.send("/v1/node/run", carry_out(errand, permitted=self._place.may_run))

    def update(self) -> bool:
        """Put another release in force; True when this process is to end, so that systemd starts it."""
        order = self.orders.open(self._client.get("/v1/node/update", SignedOrder), UPDATE, AgentOrder)
        if order.number <= self._store.state.update:
            return False
        if order.sha256 == self._place.release:
            self._store.save(dataclasses.replace(self._store.state, update=order.number))
            return False
        try:
            refuse_unsuitable(order, __version__)
            content = self._client.download(f"/v1/node/agent/{order.sha256}", order.size_bytes)
            self._releases.stage(order, content, self._place.run)
        except Unreachable:
            raise
        except AgentError as exc:
            self._note("agent_update_refused", f"order {order.number}: {exc.message}", exc.hint)
            self._store.save(dataclasses.replace(self._store.state, update=order.number))
            return False
        self._releases.switch(order)
        # After the switch: until then the order may be repeated, from then on the release's trial counts; its
        # outcome has the number too.
        with contextlib.suppress(AgentError):
            self._store.save(dataclasses.replace(self._store.state, update=order.number))
        return True
