"""Text from the network on its way to a person: no control characters, a bounded length."""

from __future__ import annotations

from typing import Final

MAX_LENGTH: Final = 400


def printable(text: str, limit: int = MAX_LENGTH) -> str:
    """`text` with everything that a terminal could obey replaced, cut to `limit` characters."""
    clean = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[: limit + 1])
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
