"""How commands ask before they do what cannot be taken back: one manner, one option, one exit code."""

from __future__ import annotations

import sys

import click

from fleet.errors import FleetError


class DeclinedError(FleetError):
    """A person said no."""

    def __init__(self) -> None:
        super().__init__("nothing was changed: the answer was no")


def is_terminal() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty()


def require_yes(question: str, *, yes: bool, otherwise: str = "Say --yes if it is meant.") -> None:
    """Go on only with a person's word: `--yes`, or "y" on the terminal. The question goes to stderr, so that
    stdout stays what a program reads.

    Args:
        otherwise: What to type where there is no terminal.

    Raises:
        click.UsageError: Nobody is there to ask. Nothing was done; exit code 2.
        DeclinedError: The answer is no.
        click.Abort: Interrupted at the question.
    """
    if yes:
        return
    if not is_terminal():
        raise click.UsageError(f"There is no terminal to ask on. {otherwise}")
    if not click.confirm(question, err=True):
        raise DeclinedError
