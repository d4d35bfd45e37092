"""A reason not to take a node down, or something to know before it is. Every check returns these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """What stands against it.

    Attributes:
        code: Short and stable, for programs: `quorum`, `drain-emptydir`.
        text: What is so, with its values, for people.
        hint: What a person can do about it; empty where nothing can be done.
    """

    code: str
    text: str
    hint: str = ""
