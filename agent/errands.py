"""Errands: what a person asks of one node for a moment: log lines, or the output of a command. Values only.

Errands are orders like others, signed and numbered, but nothing on the node follows from one: the server
keeps them in memory for minutes, and an errand that was not fetched in time is forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass, field

LOGS, RUN = "logs", "run"
MAX_LOG_LINES = 1000
MAX_LOG_BYTES = 32 * 1024
"""Of the lines of one upload, as JSON: an escaped character takes up to 12 bytes."""
MAX_OUTPUT_BYTES = 12 * 1024
"""Of each of a command's two outputs; what is beyond is dropped and counted."""
MAX_OUTPUT_JSON_BYTES = 28 * 1024
"""Of each of them as JSON: both stay below the largest body whatever they are made of."""
MAX_RUN_S = 25.0
"""The agent does nothing else meanwhile, and a node that is silent for 35 s counts as lost."""
MAX_ARGUMENTS = 64
MAX_ARGUMENT_BYTES = 4096


@dataclass(frozen=True)
class Errand:
    """`kind` is `logs` or `run`."""

    number: int
    kind: str
    lines: int = 200
    """LOGS: at most so many, the newest."""
    cursor: str = ""
    """LOGS: only what came after it; empty: from wherever the newest lines begin."""
    argv: tuple[str, ...] = field(default=(), repr=False)
    """RUN: a program and its arguments. No shell has a part in it."""
    timeout_s: float = 20.0


@dataclass(frozen=True)
class LogUpload:
    """Lines without secrets, the oldest first. `cursor` goes into the next errand to go on from here."""

    number: int
    lines: tuple[str, ...] = field(repr=False)
    cursor: str = ""
    dropped: int = 0
    """Lines that were too many."""
    source: str = "journal"
    """`journal`, or `memory` where the journal can not be read: then only the agent's own last lines."""


@dataclass(frozen=True)
class RunResult:
    """What became of a command. `refused` says why it was not started."""

    number: int
    returncode: int | None = None
    """None: it was not started, or did not end in time."""
    stdout: str = field(default="", repr=False)
    stderr: str = field(default="", repr=False)
    dropped_bytes: int = 0
    seconds: float = 0.0
    refused: str = ""
