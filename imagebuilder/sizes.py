"""Sizes as people write them."""

from __future__ import annotations

import re
from typing import Final

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?", re.ASCII)


def parse_size(text: str) -> int:
    """Bytes from 500M, 20G, 1.5Ti or 4096.

    Raises:
        ValueError: it is none of these; the words are for people.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size; write 500M, 20G or 20Gi")
    power = " kMGT".index(match[2] or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)
