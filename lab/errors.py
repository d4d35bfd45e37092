"""The error tree of the `lab` package."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


class LabError(Exception):
    """Something that the lab cannot do, told so that a person can act on it.

    Args:
        message: What was found and what was expected.
        hint: What to do next; empty where the message already says it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class UsageError(LabError):
    """What was asked for on the command line is not possible as it stands."""

    exit_code = 2


class ToolMissingError(LabError):
    """A program that the lab runs is not installed, or too old."""


class CommandError(LabError):
    """A program failed.

    Attributes:
        argv: What was run.
        status: Exit status; negative for the signal that ended it.
    """

    STDERR_LINES = 20

    def __init__(self, argv: Sequence[str], status: int, stderr: str) -> None:
        tail = "\n".join(stderr.strip().splitlines()[-self.STDERR_LINES :])
        super().__init__(f"`{shlex.join(argv)}` ended with status {status}" + (f":\n{tail}" if tail else ""))
        self.argv = tuple(argv)
        self.status = status


class WaitTimeoutError(LabError):
    """A virtual board did not get to the awaited state in time."""
