"""What was seen of each board: attempts to boot, each with its events, folded and bounded.

An attempt begins with a bootloader's first DISCOVER and ends where the next one begins. The same thing seen
again within an attempt is counted, not kept. A stranger that invents names, serials or addresses can fill
nothing: attempts, observations and boards each have a limit, and the oldest goes first.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar

from fleet.boards import Soc
from pxe.boot.identity import BoardIdentity
from pxe.diagnosis.finding import Evidence
from pxe.events import (
    BoardEvent,
    BootFile,
    BootFileMissing,
    BootFileProbed,
    BootProgress,
    DhcpDiscover,
    TransferDone,
    TransferFailed,
)

ATTEMPTS_KEPT: Final = 6
OBSERVATIONS_KEPT: Final = 96  # a Pi 4 asks for about forty names in one boot
BOARDS_KEPT: Final = 2048
ATTEMPT_GAP_S: Final = 60.0  # longer than DHCP_TIMEOUT (45 s): silence of this length ends an attempt

Event = TypeVar("Event", bound=BoardEvent)

FILE_EVENTS: Final = (BootFile, BootFileProbed, BootFileMissing, BootProgress, TransferFailed)
"""What a bootloader does over TFTP."""


@dataclass(slots=True)
class Observation:
    """One thing that happened, and how often. `event` is the newest of its kind; times are UTC seconds."""

    event: BoardEvent
    first_at: float
    last_at: float
    count: int = 1

    def evidence(self) -> Evidence:
        """It in words, at the time of the first."""
        text = self.event.text()
        if self.count > 1:
            text += f" ({self.count} times in {self.last_at - self.first_at:.0f} s)"
        return Evidence(self.first_at, text)


@dataclass(slots=True)
class Attempt:
    """One attempt of a board to boot from the network."""

    started_at: float
    last_at: float
    seen: OrderedDict[tuple[str, str], Observation] = field(default_factory=OrderedDict)

    def add(self, event: BoardEvent) -> None:
        """Take note of an event that belongs to this attempt."""
        self.last_at = max(self.last_at, event.at)
        name = getattr(event, "name", None)  # a file counts as one, whatever else its events say
        key = (event.kind, name if isinstance(name, str) else event.topic)
        known = self.seen.get(key)
        if known is not None:
            known.event, known.last_at = event, event.at
            known.count += 1 + event.repeats
            return
        while len(self.seen) >= OBSERVATIONS_KEPT:
            self.seen.popitem(last=False)
        self.seen[key] = Observation(event, event.at, event.at, 1 + event.repeats)

    def of(self, *kinds: type[BoardEvent]) -> list[Observation]:
        """Observations of these kinds, oldest first."""
        return [seen for seen in self.seen.values() if isinstance(seen.event, kinds)]

    def events(self, kind: type[Event]) -> Iterator[tuple[Observation, Event]]:
        """Observations of one kind, with their events as what they are."""
        for seen in self.seen.values():
            if isinstance(seen.event, kind):
                yield seen, seen.event

    def count(self, *kinds: type[BoardEvent]) -> int:
        """How often events of these kinds happened."""
        return sum(seen.count for seen in self.of(*kinds))

    def has(self, *kinds: type[BoardEvent]) -> bool:
        return any(isinstance(seen.event, kinds) for seen in self.seen.values())

    def read(self) -> dict[str, Observation]:
        """Files that the board has read to their end: name → observation."""
        return {event.name: seen for seen, event in self.events(BootFile)}


@dataclass(slots=True)
class BoardHistory:
    """One board: who it is, and its newest attempts. Never without an attempt."""

    board: BoardIdentity
    node: str | None
    attempts: deque[Attempt]
    serials: OrderedDict[int, float] = field(default_factory=OrderedDict)
    blksize: int | None = None
    """What its bootloader asks for over TFTP, bytes."""

    @property
    def current(self) -> Attempt:
        return self.attempts[-1]

    @property
    def last_at(self) -> float:
        return self.current.last_at

    def add(self, event: BoardEvent) -> None:
        """Take note of an event of this board."""
        self.board, self.node = _complete(event.board, self.board), event.node or self.node
        if event.board.serial_low is not None and len(self.serials) < ATTEMPTS_KEPT:
            self.serials.setdefault(event.board.serial_low, event.at)
        if isinstance(event, BootFile) and self._is_first_stage(event.name):
            self.blksize = event.statistics.blksize
        if self._begins_anew(event):
            self.attempts.append(Attempt(event.at, event.at))
        self.current.add(event)

    def _is_first_stage(self, name: str) -> bool:
        """Whether the bootloader of the EEPROM reads this file: on BCM2711 start4.elf, which then reads the
        rest by itself; on BCM2712 all of them."""
        return self.board.family is Soc.BCM2712 or name == "start4.elf"

    def _begins_anew(self, event: BoardEvent) -> bool:
        current = self.current
        if not current.seen:
            return False
        is_late = event.at - current.last_at > ATTEMPT_GAP_S
        if isinstance(event, DhcpDiscover):
            return event.board.is_pi and (is_late or current.has(*FILE_EVENTS, TransferDone))
        return is_late and isinstance(event, FILE_EVENTS)


@dataclass(slots=True)
class Notebook:
    """The histories of all boards, each under one key, whichever half of its identity it shows."""

    _boards: OrderedDict[str, BoardHistory] = field(default_factory=OrderedDict)
    _by_mac: OrderedDict[str, str] = field(default_factory=OrderedDict)

    def add(self, event: BoardEvent) -> BoardHistory | None:
        """Take note; the board's history, or None for an event that is nobody's."""
        key = self._key(event.board)
        if key is None:
            return None
        history = self._boards.get(key)
        if history is None:
            while len(self._boards) >= BOARDS_KEPT:
                self._boards.popitem(last=False)
            first = Attempt(event.at, event.at)
            history = BoardHistory(event.board, event.node, deque([first], maxlen=ATTEMPTS_KEPT))
            self._boards[key] = history
        self._boards.move_to_end(key)
        history.add(event)
        return history

    def find(self, key: str) -> BoardHistory | None:
        """By the eight digits of a serial or by a MAC address, as `BoardIdentity` writes them."""
        return self._boards.get(self._by_mac.get(key, key))

    def __iter__(self) -> Iterator[BoardHistory]:
        return iter(self._boards.values())

    def __len__(self) -> int:
        return len(self._boards)

    def _key(self, board: BoardIdentity) -> str | None:
        if board.mac is None:
            return board.serial_prefix
        mac = str(board.mac)
        known = self._by_mac.get(mac)
        if known is not None:
            self._by_mac.move_to_end(mac)
            return known
        key = board.serial_prefix or mac
        if board.serial_prefix is not None:
            while len(self._by_mac) >= BOARDS_KEPT:
                self._by_mac.popitem(last=False)
            self._by_mac[mac] = key
            if mac in self._boards and key not in self._boards:  # it showed only its MAC address so far
                self._boards[key] = self._boards.pop(mac)
        return key


def evidence_of(seen: Iterable[Observation]) -> tuple[Evidence, ...]:
    """Observations as evidence, oldest first."""
    return tuple(sorted((one.evidence() for one in seen), key=lambda evidence: evidence.at))


def _complete(said: BoardIdentity, known: BoardIdentity) -> BoardIdentity:
    """The newest word of a board, unless an older one said more."""
    return said if said.revision is not None or known.revision is None else known
