"""What changed since a page was made: one look at the store a second, for all browsers together.

The feed keeps the newest value of each card with the number of the look in which it changed. A browser is
sent what changed after the number that it has seen, so there is no queue: a slow one is told less often, and
always of the newest; one that was away for a while continues where it was. A look that finds no commit since
the one before, and etcd as it was, reads nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from bramble.dashboard.alerts import ClusterGlance, ClusterGlances
from bramble.dashboard.paces import Paces
from bramble.dashboard.rack import DENSE, Card, Headline, by_name, card_of, headline, percent_of
from fleet.attention import Fault
from fleet.errors import FleetError
from fleet.health.desk import held_by_all
from fleet.store.database import Store
from fleet.store.glance import NodeGlance, find_events, glances, newest_event, owners_of_events
from fleet.store.records import BoardRecord
from fleet.timeline import Kind
from fleet.views import EventView, event_view

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0
LINES: Final = 8
"""Of the newest entries, beside the cards."""
CHATTER: Final = (Kind.BOOT, Kind.CONSOLE)
"""What a board says while it boots stands on its own page."""
_KINDS: Final = tuple(kind.value for kind in Kind if kind not in CHATTER)
RECENT: Final = 100
_CURSOR: Final = re.compile(r"([0-9a-f]{8})-(\d{1,12})-(\d{1,18})")


@dataclass(frozen=True, slots=True)
class Cursor:
    """How much of one feed a page has seen: a look, and an entry of the timelines."""

    look: int
    event: int


class Feed:
    """The newest state of all cards, and who waits for the next.

    Args:
        flush: Has entries written that wait for the next round of the controller.
        random_hex: So many random bytes: the feed's name, by which a cursor of an earlier server is known.
        clusters: Looks at what is the matter with the cluster.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        store: Store,
        flush: Callable[[], None],
        random_hex: Callable[[int], str],
        clusters: ClusterGlances,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._flush = flush
        self.name = random_hex(4)
        self._looks = 0
        self._mark: tuple[int, str, tuple[Fault, ...]] | None = None
        self._cards: dict[str, Card] = {}
        self._changed_in: dict[str, int] = {}
        self._held: tuple[BoardRecord, ...] = ()
        self._held_changed_in = 0
        self._clusters = clusters
        self._cluster = ClusterGlance()
        self._cluster_changed_in = 0
        self._paces = Paces()
        self._clock = clock
        self._event = 0
        self._lines: list[EventView] = []
        self._recent: list[tuple[int, str | None, str | None]] = []
        self._next = asyncio.Event()
        self._newest: tuple[Cursor, bytes] | None = None
        self.listeners = 0
        self.is_failing = False

    async def run(self) -> None:
        """Look once a second while somebody listens, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if not self.listeners:
                continue
            try:
                self._flush()
                self.look()
            except FleetError as error:
                if not self.is_failing:
                    log.error("the dashboard cannot see what changes: %s", error.message)
                self.is_failing = True
            except Exception:  # a mistake of ours must not let every open page stand still for ever
                if not self.is_failing:
                    log.exception("the dashboard cannot see what changes")
                self.is_failing = True
            else:
                self.is_failing = False

    async def changed(self, timeout_s: float) -> bool:
        """Wait for the next change; False where there was none for so long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._next.wait()
        except TimeoutError:
            return False
        return True

    def poke(self) -> None:
        """Something that is not in the store is new: pages that are made anew are told."""
        self._looks += 1
        self._newest = None
        self._next.set()
        self._next = asyncio.Event()

    def look(self) -> bool:
        """Read what is new; whether anything was.

        Raises:
            StoreError: It cannot be read; what was known stays.
        """
        mark = (self._store.commits, self._store.change_mark(), self._clusters.faults())
        if mark == self._mark:
            return False
        self._clusters.ask()
        with self._store.read() as reader:
            ill, nodes = held_by_all(reader), glances(reader)
            nodes.sort(key=lambda node: by_name(node.name))
            cards = [card_of(node, ill.get(node.name, ()), left) for node, left in self._with_times(nodes)]
            cluster = self._clusters.look(reader)
            held = tuple(reader.held_boards())
            event = newest_event(reader)
            if event != self._event:
                self._recent = owners_of_events(reader, RECENT)
                lines = find_events(reader, LINES, kinds=_KINDS)
                self._lines = [event_view(line) for line in reversed(lines)]
        self._mark = mark
        return self._take(cards, held, cluster, event)

    def _with_times(self, nodes: list[NodeGlance]) -> Iterator[tuple[NodeGlance, str]]:
        """With the time that each takes yet; where cards are dense they do not say it."""
        if len(nodes) > DENSE:
            yield from ((node, "") for node in nodes)
            return
        now = self._clock()
        self._paces.keep([node.name for node in nodes])
        for node in nodes:
            yield node, self._paces.look(node.name, node.detail, percent_of(node.state, node.detail), now)

    def _take(
        self, cards: list[Card], held: tuple[BoardRecord, ...], cluster: ClusterGlance, event: int
    ) -> bool:
        number = self._looks + 1
        changed = [card for card in cards if self._cards.get(card.name) != card]
        gone = self._cards.keys() - {card.name for card in cards}
        for card in changed:
            self._changed_in[card.name] = number
        for name in gone:
            del self._changed_in[name]
        is_held_new = _looks_of(held) != _looks_of(self._held)
        if is_held_new:
            self._held_changed_in = number
        is_cluster_new = cluster != self._cluster
        if is_cluster_new:
            self._cluster_changed_in = number
        self._cards = {card.name: card for card in cards}
        self._held, self._cluster = held, cluster
        if event == self._event and not (changed or gone or is_held_new or is_cluster_new):
            return False
        self._event = event
        self._looks = number
        self._newest = None
        self._next.set()
        self._next = asyncio.Event()
        return True

    @property
    def cards(self) -> list[Card]:
        """By name, as of the last look."""
        return list(self._cards.values())

    @property
    def held(self) -> tuple[BoardRecord, ...]:
        """Boards that are no node's, the one that was seen first at the top."""
        return self._held

    @property
    def lines(self) -> list[EventView]:
        """The newest entries of all timelines, the newest first."""
        return list(reversed(self._lines))

    @property
    def cluster(self) -> ClusterGlance:
        """What is the matter with the cluster as a whole."""
        return self._cluster

    def headline(self) -> Headline:
        return headline(self._cards.values(), len(self._held), self._cluster)

    @property
    def cursor(self) -> Cursor:
        """What a page has seen that is made now."""
        return Cursor(self._looks, self._event)

    def mark_of(self, cursor: Cursor) -> str:
        """A cursor as a browser keeps it."""
        return f"{self.name}-{cursor.look}-{cursor.event}"

    def parse_mark(self, text: str) -> Cursor:
        """Where a browser continues; from the beginning where it knows another server or nothing."""
        found = _CURSOR.fullmatch(text)
        if found is None or found[1] != self.name:
            return Cursor(0, 0)
        return Cursor(min(int(found[2]), self._looks), min(int(found[3]), self._event))

    def rack_since(self, cursor: Cursor) -> bytes:
        """What the page of all cards has to change, as JSON."""
        if self._newest is not None and self._newest[0] == cursor:
            return self._newest[1]
        head = self.headline()
        value: dict[str, Any] = {
            "cards": [card.patch() for card in self._changed_since(cursor)],
            "head": [head.tone, head.text, head.more],
            "held": self._held_changed_in > cursor.look,
            "cluster": self._cluster_changed_in > cursor.look,
            "lines": [
                [line.id, line.at, line.node or line.board or "", line.kind, line.text]
                for line in self._lines
                if line.id > cursor.event
            ],
        }
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
        self._newest = (cursor, text)
        return text

    def subject_since(self, name: str, key: str | None, cursor: Cursor) -> bool:
        """Whether a node, or a board, did something after a cursor.

        Args:
            key: Of its board.
        """
        if self._changed_in.get(name, 0) > cursor.look:
            return True
        if self._event == cursor.event:
            return False
        # More came than are kept here: look at the page anew rather than miss one of its own.
        if len(self._recent) == RECENT and self._recent[-1][0] > cursor.event + 1:
            return True
        own = {name, key} - {None}
        return any(number > cursor.event and own & {node, board} for number, node, board in self._recent)

    def _changed_since(self, cursor: Cursor) -> Iterator[Card]:
        return (card for card in self._cards.values() if self._changed_in[card.name] > cursor.look)


def _looks_of(held: tuple[BoardRecord, ...]) -> list[tuple[str, str | None, str | None]]:
    """What of held boards is shown: not when they were seen last, which changes all the time."""
    return [(board.id, board.model, board.held_reason) for board in held]
