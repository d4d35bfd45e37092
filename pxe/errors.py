"""The package's error tree: every error says what happened, and in ``hint`` what to do next."""

from __future__ import annotations


class PxeError(Exception):
    """Root of all errors that this package raises on purpose.

    Args:
        message: what happened and what was expected.
        hint: what to do next; a sentence for a person, or empty where nobody can do anything.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class WireError(PxeError):
    """Bytes from the network that are not a valid message. The shell counts them and goes on."""
