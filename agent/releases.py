"""Which release of the agent to start, and when to go back. Pure.

A release is on trial from the moment it is switched to until it has been heard by the control server. The
decision is always taken by the agent of the image, which no update ever touches: it counts the starts before
it hands over, so a release that cannot even begin is given up by counting, and one that runs without being
heard is given up by a systemd timer.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass

MAX_STARTS = 3
"""Starts of a release on trial; with the unit's watchdog each ends within minutes, whatever it does."""
_VERSION = re.compile(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})(?:[+-][0-9A-Za-z.+-]*)?")


@dataclass(frozen=True)
class Trial:
    """A release that has yet to prove itself. `previous` is the one before; None: that of the image."""

    number: int
    """Of the order."""
    sha256: str
    version: str
    previous: str | None = None
    starts: int = 0
    expired: bool = False
    """The timer ran out."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended; the next report tells it."""

    number: int
    version: str
    confirmed: bool
    reason: str = ""


@dataclass(frozen=True)
class Start:
    """What the launcher is to do: set `current`, keep `trial`, note `outcome`, then start `release`."""

    release: str | None
    """SHA-256 of a release; None: the agent of the image itself."""
    trial: Trial | None = None
    outcome: Outcome | None = None


def decide(current: str | None, trial: Trial | None, is_intact: Callable[[str], bool]) -> Start:
    """Which release to start.

    Args:
        current: what the link names; None where there is none.
        is_intact: whether the file of a release is there and has its digest.
    """
    if current is None:
        return Start(None)
    on_trial = trial is not None and trial.sha256 == current
    if trial is not None and on_trial:
        fault = _find_fault(trial, is_intact(current))
        if fault is None:
            return Start(current, dataclasses.replace(trial, starts=trial.starts + 1))
        outcome = Outcome(trial.number, trial.version, False, fault)
        previous = trial.previous
        return Start(previous if previous is not None and is_intact(previous) else None, outcome=outcome)
    # A trial of something else was begun and not switched to: its order is carried out anew.
    if is_intact(current):
        return Start(current)
    return Start(None, outcome=Outcome(0, current[:12], False, "its file is damaged"))


def _find_fault(trial: Trial, intact: bool) -> str | None:
    if not intact:
        return "its file is damaged"
    if trial.expired:
        return "it was not heard by the control server in time"
    if trial.starts >= MAX_STARTS:
        return f"it ended {trial.starts} times without being heard by the control server"
    return None


def parse_version(text: str) -> tuple[int, int, int] | None:
    """`0.1.0`, with or without a suffix; None for anything else."""
    match = _VERSION.fullmatch(text)
    return None if match is None else (int(match.group(1)), int(match.group(2)), int(match.group(3)))


def find_objection(*, running: str, offered: str, allow_downgrade: bool) -> str | None:
    """Why a release is not taken; None where nothing speaks against it."""
    old, new = parse_version(running), parse_version(offered)
    if new is None:
        return f"its version is {offered!r}, expected three numbers"
    if old is not None and new < old and not allow_downgrade:
        return f"it is version {offered}, older than {running}, and a downgrade was not ordered"
    return None
