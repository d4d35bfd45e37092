"""What goes wrong in a measurement."""

from __future__ import annotations


class BenchmarkError(Exception):
    """A measurement that would be worth nothing: a subject failed, or did other work than the rest.

    Args:
        message: what happened.
        hint: what to do next.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class NotPossible(BenchmarkError):
    """A case that this machine can not run as it is; the table says so and how to change that."""
