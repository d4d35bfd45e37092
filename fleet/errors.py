"""The error tree of the `fleet` package: one root, and every leaf says what happened and what to do next."""

from __future__ import annotations

from typing import ClassVar


class FleetError(Exception):
    """Something that the fleet room cannot do, told so that a person can act on it.

    Args:
        message: What was found and what was expected, as one or two sentences.
        hint: What to do next; empty where the message already says it.
    """

    exit_code: ClassVar[int] = 1
    """What the command exits with: 1 failed, 2 invalid input."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class InputError(FleetError):
    """What a person wrote or named cannot be used as it is."""

    exit_code: ClassVar[int] = 2
