"""Looks at the fleet every few seconds and tells people; the only user of `fleet.notify.channels`.

The ledger is kept in the store, so nothing is told twice or lost over a restart. Where several servers share
a store, the one that holds a lease does the telling. Sending is a task of its own for each channel: a server
that does not answer holds up nobody, least of all the controller.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from fleet.attention import Finding
from fleet.attention import findings as findings_of
from fleet.errors import FleetError
from fleet.notify import channels
from fleet.notify.ledger import Alarm, Ledger, Notice, advance, delivered, from_json, take, to_json
from fleet.spec.model import ClusterSpec
from fleet.spec.notify_model import NotifyChannel
from fleet.store.database import Store
from fleet.store.records import EventRecord
from fleet.store.transaction import Reader
from fleet.timeline import Kind
from fleet.views import fleet_view

log = logging.getLogger(__name__)

LEDGER: Final = "notify.ledger"
LEASE: Final = "notify.lease"
LOOK_EVERY_S: Final = 5.0
LEASE_S: Final = 60.0
RENEW_S: Final = 20.0
FIRST_WAIT_S: Final = 5.0
LONGEST_WAIT_S: Final = 600.0
BETWEEN_MESSAGES_S: Final = 10.0
"""At least, to one channel; what comes meanwhile goes together in the next message."""

Send = Callable[[NotifyChannel, str, Sequence[Notice]], Awaitable[None]]


@dataclass(slots=True)
class _Line:
    """How sending to one channel goes."""

    failures: int = 0
    not_before: float = 0.0
    task: asyncio.Task[None] | None = None


class NotifyDesk:
    """Tells the channels of the declared cluster.

    Args:
        spec: The cluster that is in force now.
        owner: A name that no other server has.
        findings: What needs a person; unless given, what the record says.
        clock: UTC seconds; for what is kept.
        monotonic: For waits.

    Attributes:
        sent, failed: Messages by driver, for metrics.
    """

    def __init__(
        self,
        store: Store,
        spec: Callable[[], ClusterSpec],
        owner: str,
        *,
        findings: Callable[[], tuple[Finding, ...]] | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        send: Send = channels.send,
    ) -> None:
        self._store = store
        self._spec = spec
        self._owner = owner
        self._findings = findings or (lambda: findings_of(fleet_view(store)))
        self._clock = clock
        self._monotonic = monotonic
        self._send = send
        self._ledger: Ledger | None = None
        self._lease_until = 0.0
        self._lines: dict[str, _Line] = {}
        self.sent: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    @property
    def waiting(self) -> int:
        """Notices that no channel has taken yet; 0 where another server does the telling."""
        return len(self._ledger.waiting) if self._ledger is not None else 0

    async def run(self) -> None:
        """Look and send until cancelled."""
        try:
            while True:
                try:
                    self.look()
                except FleetError as error:
                    log.error("nobody could be told of what needs a person: %s", error)
                except Exception:
                    # A mistake here is no reason to end what the fleet is served by.
                    log.exception("nobody could be told of what needs a person")
                self.start_sending()
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            tasks = [line.task for line in self._lines.values() if line.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def look(self) -> None:
        """Bring the ledger up to what holds now.

        Raises:
            StoreError: It cannot be read or written.
        """
        spec, now = self._spec(), self._clock()
        if not spec.notify or not self._holds_lease(now):
            self._ledger = None
            return
        with self._store.read() as reader:
            ledger = self._ledger or from_json(reader.value(LEDGER) or "")
            alarms, newest = _alarms_after(reader, ledger.last_event)
        after = replace(advance(ledger, self._findings(), alarms, spec.notify, now), last_event=newest)
        # Only where people are concerned: an entry of a timeline alone would cost a write every few seconds.
        if ledger.last_event is None or after != replace(ledger, last_event=newest):
            self._keep(after)
        self._ledger = after

    def start_sending(self) -> None:
        """Begin to send what waits, to every channel that is not busy or being left alone."""
        if self._ledger is None:
            return
        spec, now = self._spec(), self._monotonic()
        for channel in spec.notify:
            line = self._lines.setdefault(channel.name, _Line())
            busy = line.task is not None and not line.task.done()
            notices = take(self._ledger, channel.name)
            if notices and not busy and now >= line.not_before:
                work = self._deliver(channel, spec.name, notices, line)
                line.task = asyncio.create_task(work, name=f"notify {channel.name}")

    async def _deliver(
        self, channel: NotifyChannel, cluster: str, notices: tuple[Notice, ...], line: _Line
    ) -> None:
        """Send one message. Never raises, save when it is cancelled."""
        driver = channel.driver
        try:
            await self._send(channel, cluster, notices)
        except Exception as failure:
            error = failure if isinstance(failure, channels.ChannelError) else _mistake(channel, failure)
            self.failed[driver] += 1
            line.failures += 1
            wait = min(FIRST_WAIT_S * 2 ** (line.failures - 1), LONGEST_WAIT_S)
            line.not_before = self._monotonic() + max(wait, min(error.retry_after_s, LONGEST_WAIT_S))
            level = logging.ERROR if line.failures == 1 else logging.INFO
            log.log(level, "people were not told: %s", error, extra={"channel": channel.name})
            return
        self.sent[driver] += 1
        line.failures = 0
        line.not_before = self._monotonic() + BETWEEN_MESSAGES_S
        if self._ledger is None:
            return  # another server tells by now, and will tell this once more
        self._ledger = delivered(self._ledger, channel.name, notices)
        try:
            self._keep(self._ledger)
        except FleetError as error:
            log.error("what people were told was not noted: %s", error)

    def _keep(self, ledger: Ledger) -> None:
        with self._store.write() as tx:
            tx.put_value(LEDGER, to_json(ledger))

    def _holds_lease(self, now: float) -> bool:
        """Whether this server does the telling. Alone with its store, it does."""
        if not self._store.is_shared:
            return True
        if now < self._lease_until - LEASE_S + RENEW_S:
            return True
        with self._store.write() as tx:
            holder, until = _lease(tx.value(LEASE))
            if holder not in ("", self._owner) and now < until:
                self._lease_until = 0.0
                return False
            if holder != self._owner:
                self._ledger = None  # the other one's is newer
            tx.put_value(LEASE, json.dumps([self._owner, now + LEASE_S]))
        self._lease_until = now + LEASE_S
        return True


def _mistake(channel: NotifyChannel, failure: Exception) -> channels.ChannelError:
    """What no channel foresaw is told and tried again as all else; its text may hold a secret."""
    return channels.ChannelError(f"{channel.name}: not sent: {type(failure).__name__}")


def _lease(text: str | None) -> tuple[str, float]:
    try:
        holder, until = json.loads(text or "")
        return str(holder), float(until)
    except (ValueError, TypeError):
        return "", 0.0


def _calls_somebody(entry: EventRecord) -> bool:
    """Whether an entry is for a person who is not looking: an alarm, or a node that waits for a hand.

    A board that is held has an entry of that kind, too, and a finding of its own.
    """
    return entry.kind == Kind.ALARM or (entry.kind == Kind.HELD and entry.node is not None)


def _alarms_after(reader: Reader, last: int | None) -> tuple[list[Alarm], int]:
    """Alarms after an entry, and the newest entry. At the first look nothing of the past is told."""
    newest, _counts = reader.events_since(last or 0)
    if last is None or newest == last:
        return [], newest
    entries = reader.timeline(since=last)
    alarms = [
        Alarm(
            id=entry.id,
            subject=entry.node or entry.board or "",
            text=entry.text,
            hint=entry.hint,
            at=entry.at,
        )
        for entry in entries
        if _calls_somebody(entry)
    ]
    return alarms, newest
