"""How far a bootstrap is, read from what its tools print. Pure: lines in, values out; no clock.

The shares come from a measured build (2 cores, 2026-11): a percentage that moves evenly in time matters more
to the person who waits than one that is exact.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A step forward.

    ``percent`` is of the whole work and never falls; ``done``/``total`` count ``phase``'s own items, where it
    has any; ``elapsed_s`` is in seconds since the start.
    """

    phase: str
    percent: int
    done: int | None = None
    total: int | None = None
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Phase:
    title: str
    share: int
    item: re.Pattern[str] | None = None


_PHASES: Final[dict[str, _Phase]] = {
    "download": _Phase("downloading packages", 8, re.compile(r"Get:\d+ \S+ .*\barm64\b")),
    "unpack": _Phase("unpacking", 9, re.compile(r"Unpacking \S+")),
    "configure": _Phase("configuring packages", 40, re.compile(r"Setting up \S+")),
    "customise": _Phase("customising", 3),
    "finish": _Phase("building the initramfs", 36),
    "clean": _Phase("cleaning up", 1),
    "complete": _Phase("writing the disk image", 3),
}
_MARK: Final = "bramble: "
_TYPICAL_ITEMS: Final = 205
"""Packages of the base; the real number is known once they are unpacked."""


class BootstrapProgress:
    """Turns output lines into ``Progress``; one instance per run."""

    def __init__(self) -> None:
        self._before = 0
        self._phase: _Phase | None = None
        self._done = 0
        self._total = _TYPICAL_ITEMS

    def read(self, line: str) -> Progress | None:
        """What ``line`` says about the progress; None when it says nothing."""
        if line.startswith(_MARK):
            return self._enter(line.removeprefix(_MARK).strip())
        phase = self._phase
        if phase is None or phase.item is None or not phase.item.match(line):
            return None
        self._done += 1
        return self._now(phase)

    def _enter(self, name: str) -> Progress | None:
        phase = _PHASES.get(name)
        if phase is None:
            return None
        if self._phase is not None:
            self._before += self._phase.share
            if self._phase is _PHASES["unpack"] and self._done:
                self._total = self._done
        self._phase = phase
        self._done = 0
        return self._now(phase)

    def _now(self, phase: _Phase) -> Progress:
        if phase.item is None:
            return Progress(phase=phase.title, percent=self._before)
        part = min(1.0, self._done / self._total)
        total = max(self._total, self._done)
        return Progress(
            phase=phase.title, percent=self._before + int(phase.share * part), done=self._done, total=total
        )
