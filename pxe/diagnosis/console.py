"""From datagrams of bootloaders' network consoles to lines. Pure.

A bootloader with NETCONSOLE set sends its log over UDP, in pieces that begin and end anywhere. Anybody can
send such datagrams: sources, lines, their length and their number are bounded, and no character gets through
that a terminal could obey. Source: Raspberry Pi documentation, EEPROM bootloader, NETCONSOLE.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final

from pxe.boot.routes import printable

MAX_LINE: Final = 200
MAX_SOURCES: Final = 1024
LINES_A_MINUTE: Final = 600  # of one board; a boot prints about two hundred
PARTIAL_S: Final = 1.0  # a line without its end is shown after this silence


@dataclass(slots=True)
class _Source:
    text: str = ""
    heard_at: float = 0.0
    minute: int = 0
    lines: int = 0


@dataclass(slots=True)
class ConsoleBook:
    """What is known of each console.

    Attributes:
        dropped: lines beyond `LINES_A_MINUTE`.
    """

    dropped: int = 0
    _sources: OrderedDict[IPv4Address, _Source] = field(default_factory=OrderedDict)

    def feed(self, source: IPv4Address, data: bytes, now: float) -> list[str]:
        """The lines that a datagram completes.

        Args:
            source: who sent it.
            data: its payload.
            now: seconds.
        """
        console = self._sources.get(source)
        if console is None:
            while len(self._sources) >= MAX_SOURCES:
                self._sources.popitem(last=False)
            console = self._sources[source] = _Source()
        self._sources.move_to_end(source)
        console.heard_at = now
        text = console.text + data.decode("utf-8", "replace").replace("\r", "\n")
        *complete, rest = text.split("\n")
        while len(rest) > MAX_LINE:
            complete.append(rest[:MAX_LINE])
            rest = rest[MAX_LINE:]
        console.text = rest
        return self._admit(console, complete, now)

    def flush(self, now: float) -> list[tuple[IPv4Address, str]]:
        """Lines whose end did not come."""
        found: list[tuple[IPv4Address, str]] = []
        for source, console in self._sources.items():
            if console.text and now - console.heard_at >= PARTIAL_S:
                text, console.text = console.text, ""
                found += ((source, line) for line in self._admit(console, [text], now))
        return found

    def _admit(self, console: _Source, lines: list[str], now: float) -> list[str]:
        admitted: list[str] = []
        for line in lines:
            clean = printable(line.strip().replace("\t", " "), MAX_LINE)
            if not clean:
                continue
            minute = int(now // 60)
            if minute != console.minute:
                console.minute, console.lines = minute, 0
            console.lines += 1
            if console.lines > LINES_A_MINUTE:
                self.dropped += 1
            else:
                admitted.append(clean)
        return admitted
