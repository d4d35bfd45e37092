"""What goes to a person: text from the network without control characters, sizes in words. Pure."""

from __future__ import annotations

from typing import Final

MAX_LENGTH: Final = 400


def printable(text: str, limit: int = MAX_LENGTH) -> str:
    """`text` with everything that a terminal could obey replaced, cut to `limit` characters."""
    clean = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[: limit + 1])
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def size_text(count: float) -> str:
    """Bytes in units of 1024: `512 B`, `4.0 KiB`, `1.2 GiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def counted(number: int, noun: str) -> str:
    """`1 node`, `3 nodes`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
