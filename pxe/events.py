"""What happened to a board, as values that a timeline stores and a person reads.

One event is one line: packets, retransmissions and repeated probes do not show. The shell stamps the time.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import cache
from ipaddress import IPv4Address
from typing import ClassVar, Final

from fleet.boards import MacAddress
from pxe.boot.identity import BoardIdentity

REPEATS_REMEMBERED: Final = 4096


@cache
def _kind_of(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardEvent(ABC):
    """Something that a board did, or that was done for it.

    Args:
        at: UTC seconds.
        board: who it is, as far as known.
        node: name of the node that the board is, or None.
        repeats: how often the same thing happened without a line of its own since the last line.
    """

    at: float
    board: BoardIdentity
    node: str | None
    repeats: int = 0

    for_timeline: ClassVar[bool] = True  # False: live display only
    quiet_s: ClassVar[float] = 60.0  # how long the same thing again is only counted

    @property
    def kind(self) -> str:
        """The event's name in logs and in the store: ``dhcp-offer``."""
        return _kind_of(type(self).__name__)

    @property
    def topic(self) -> str:
        """What makes two events of a kind the same: usually all that they say."""
        return self.text()

    def describe(self) -> str:
        """One line in words that a person understands, without the board's name."""
        text = self.text()
        return f"{text} (and {self.repeats} times more)" if self.repeats else text

    @abstractmethod
    def text(self) -> str:
        """The line without the count of repeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpDiscover(BoardEvent):
    """The board looks for a DHCP server."""

    def text(self) -> str:
        return f"asks for an address ({self.board.describe()})"


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpOffer(BoardEvent):
    """The board was offered an address, or in proxy mode only the boot server. `answer`: what it may boot."""

    address: IPv4Address | None
    answer: str

    def text(self) -> str:
        offered = "told where to boot from" if self.address is None else f"offered the address {self.address}"
        return f"{offered}; {self.answer}" if self.answer else offered


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpAck(BoardEvent):
    """The board has an address. `boots`: its bootloader speaks, not an operating system."""

    address: IPv4Address
    lease_s: int
    boots: bool

    def text(self) -> str:
        who = "the bootloader" if self.boots else "the operating system"
        return f"{who} has the address {self.address} for {format_seconds(self.lease_s)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpNak(BoardEvent):
    """The board may not have the address that it asked for."""

    reason: str

    def text(self) -> str:
        return f"was refused an address: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressDeclined(BoardEvent):
    """The board found another machine at the address that it was given."""

    address: IPv4Address

    def text(self) -> str:
        return (
            f"found {self.address} in use by another machine. It gets another address; "
            f"look for a device with a fixed address inside the pool"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressReleased(BoardEvent):
    """The board gave its address back."""

    address: IPv4Address

    def text(self) -> str:
        return f"gave the address {self.address} back"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoAddressLeft(BoardEvent):
    """There is no address for the board.

    Args:
        reason: why, and what helps.
        own: the address of its node, where that is kept from it; None where it has none.
    """

    reason: str
    own: IPv4Address | None = None

    def text(self) -> str:
        return f"asks for an address, but {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoProgram(BoardEvent):
    """The board may install, and there is no program that its firmware could begin with."""

    program: str

    def text(self) -> str:
        return f"may install, but there is no {self.program} for {self.board.firmware.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignServerChosen(BoardEvent):
    """The board took the offer of another DHCP server."""

    server: IPv4Address
    expected: bool

    def text(self) -> str:
        if self.expected:
            return f"took its address from the DHCP server {self.server}"
        return (
            f"took the offer of another DHCP server, {self.server}. With 'dhcp: full' there must be no other "
            f"one: switch it off, or set 'dhcp: proxy'"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignAnswer(BoardEvent):
    """Another DHCP server answered the board, as it was heard on the wire.

    Args:
        server: who it says it is (option 54), or the sender where it does not say.
        source: the sender's address.
        address: what it gives the board; None where it gives none (another proxy).
        options: the codes of its options, in the order of the wire.
        tftp_server: option 66, fit for a log; empty where absent.
        boot_file: option 67 or the field `file`, fit for a log; empty where absent.
        pi_menu: option 43 carries the text that a Raspberry Pi looks for.
        expected: this cluster counts on another DHCP server (`dhcp: proxy` or `off`).
    """

    server: IPv4Address
    source: IPv4Address
    address: IPv4Address | None
    options: tuple[int, ...]
    tftp_server: str = ""
    boot_file: str = ""
    pi_menu: bool = False
    expected: bool = True

    verb: ClassVar[str] = "answers"

    @property
    def names_boot_server(self) -> bool:
        """Whether a bootloader takes the sender's word for where to boot from (options 43 and 66)."""
        return self.pi_menu or bool(self.tftp_server)

    @property
    def topic(self) -> str:
        return f"{self.server} {self.names_boot_server}"

    def text(self) -> str:
        what = "no address" if self.address is None else f"the address {self.address}"
        said = f"another DHCP server, {self.server}, {self.verb} {what}"
        if self.names_boot_server:
            named = self.tftp_server or str(self.server)
            return f"{said} and names the boot server {named}. Boards may boot from there: remove it"
        if not self.expected and self.address is not None:
            return (
                f"{said}. With 'dhcp: full' there must be no other one: switch it off, or set 'dhcp: proxy'"
            )
        return said


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignOffer(ForeignAnswer):
    """Another DHCP server made the board an offer."""

    verb: ClassVar[str] = "offers"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignAck(ForeignAnswer):
    """Another DHCP server gave the board its address."""

    verb: ClassVar[str] = "gives"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignNak(BoardEvent):
    """Another DHCP server refused the board an address. `reason`: option 56, fit for a log."""

    server: IPv4Address
    reason: str = ""

    def text(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"another DHCP server, {self.server}, refused it its address{why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressConflict(BoardEvent):
    """The address that the board is to have answers already: another machine uses it."""

    address: IPv4Address
    holder: MacAddress

    def text(self) -> str:
        return (
            f"is not given {self.address}: the machine with the MAC address {self.holder} uses it. "
            f"Give that machine another address, or take this one out of the pool"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferStatistics:
    """How one TFTP transfer went. Every number is bounded; none may become a label.

    Args:
        blksize: bytes in a block, as agreed.
        windowsize: blocks in a window, as agreed; 1 is lock-step.
        retransmitted: blocks that were sent again.
        timeouts: how often the client was silent for so long that the server sent again by itself.
        queued_s: how long the request waited for its turn, seconds.
    """

    blksize: int = 512
    windowsize: int = 1
    retransmitted: int = 0
    timeouts: int = 0
    queued_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFile(BoardEvent):
    """The board read a file over TFTP to its end. `seconds`: from the first answer to the last ACK."""

    name: str
    size_bytes: int
    seconds: float
    statistics: TransferStatistics = TransferStatistics()

    # Within one boot a file is read several times; the next boot, even after a power cut, is later than this.
    quiet_s: ClassVar[float] = 10.0

    @property
    def topic(self) -> str:
        return self.name

    def text(self) -> str:
        sent = f"asked for {self.name}: sent {format_bytes(self.size_bytes)} in {self.seconds:.1f} s"
        return f"{sent}, {self.retransmitted} packets twice" if self.retransmitted else sent

    @property
    def retransmitted(self) -> int:
        """Blocks that were sent again."""
        return self.statistics.retransmitted


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFileProbed(BoardEvent):
    """The board looked whether a file is there, and how large it is."""

    name: str
    size_bytes: int

    for_timeline: ClassVar[bool] = False

    def text(self) -> str:
        return f"looked for {self.name}: it is there, {format_bytes(self.size_bytes)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFileMissing(BoardEvent):
    """The board was told that a file does not exist. `reason`: why, for people."""

    name: str
    reason: str

    def text(self) -> str:
        return f"asked for {self.name}: not found, {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferFailed(BoardEvent):
    """A file did not arrive."""

    name: str
    sent_bytes: int
    size_bytes: int
    reason: str
    seconds: float = 0.0
    statistics: TransferStatistics = TransferStatistics()

    def text(self) -> str:
        part = f"{format_bytes(self.sent_bytes)} of {format_bytes(self.size_bytes)}"
        return f"asked for {self.name}: it broke off after {part}, {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BootProgress(BoardEvent):
    """A large file is under way; at most one event a second for each board and file."""

    name: str
    sent_bytes: int
    size_bytes: int

    for_timeline: ClassVar[bool] = False

    def text(self) -> str:
        return f"reads {self.name}: {format_bytes(self.sent_bytes)} of {format_bytes(self.size_bytes)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferDone(BoardEvent):
    """A file was read over HTTP up to its last byte, in one piece or in several."""

    name: str
    sent_bytes: int
    seconds: float

    def text(self) -> str:
        return f"read {self.name}: sent {format_bytes(self.sent_bytes)} in {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentRefused(BoardEvent):
    """An image file was not given out. `reason`: the decision about the board."""

    name: str
    reason: str

    def text(self) -> str:
        return f"asked for {self.name}: refused, {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartExpected(BoardEvent):
    """The board was installed and restarts now: what it takes until its next request tells about the
    network.
    """

    for_timeline: ClassVar[bool] = False

    def text(self) -> str:
        return "restarts after its installation"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleLine(BoardEvent):
    """The bootloader said something on its network console (NETCONSOLE). `line`: printable, bounded."""

    line: str

    quiet_s: ClassVar[float] = 10.0

    def text(self) -> str:
        return f"console: {self.line}"


@dataclass(slots=True)
class RepeatFilter:
    """Lets one line through where a board does the same thing over and over.

    A bootloader that loops probes the same missing files many times a second, and repeats an unanswered
    request every four seconds. The first of equal events passes, the others are counted; after the
    event's `quiet_s` the next one passes and carries the count.
    """

    _seen: dict[tuple[str, str, str], tuple[float, int]] = field(default_factory=dict)

    def admit(self, event: BoardEvent) -> BoardEvent | None:
        """The event to show, with its count of repeats; None where it is one more of the same."""
        if not event.for_timeline:
            return event
        key = (event.board.key, event.kind, event.topic)
        shown_at, repeats = self._seen.pop(key, (None, 0))
        if shown_at is not None and 0 <= event.at - shown_at < event.quiet_s:
            self._seen[key] = (shown_at, repeats + 1)
            return None
        while len(self._seen) >= REPEATS_REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = (event.at, 0)
        return replace(event, repeats=repeats) if repeats else event


def format_bytes(size: int) -> str:
    """A size for people: ``2.2 MB``."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def format_seconds(seconds: int) -> str:
    """A duration for people, in its largest whole unit."""
    for unit, factor in (("h", 3600), ("min", 60)):
        if seconds >= factor and seconds % factor == 0:
            return f"{seconds // factor} {unit}"
    return f"{seconds} s"
