"""Figures in words: how long ago, how large, how long. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from markupsafe import Markup

_LOGIN: Final = re.compile(r"(://)[^/@\s]+@")
_WORD: Final = re.compile(r"[A-Za-z0-9][\w.:/-]*", re.ASCII)
_SPANS: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def span(seconds: float) -> str:
    """`3 d`, `2 h`, `5 min`, `12 s`: one unit, cut."""
    for size, unit in _SPANS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(int(seconds), 0)} s"


def ago(at: float, now: float) -> str:
    """`5 min ago`; `just now` for the last few seconds, and where clocks differ."""
    passed = now - at
    return "just now" if passed < 5 else f"{span(passed)} ago"


def moment(at: float) -> str:
    """`2026-11-26 03:33:00`, UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def without_login(value: object) -> str:
    """A setting as text; a name and a password in a URL, where somebody wrote them, are not shown."""
    return _LOGIN.sub(r"\1***@", str(value))


def iso(at: float) -> str:
    """The same for a machine: the `datetime` of a time element."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def whole(text: object) -> Markup:
    """A text whose names, fingerprints and ids stay in one piece as long as a line has room for it: else a
    phone breaks them at their dashes. `say` in static/live.js does the same."""
    found, end, plain = Markup(), 0, str(text)
    for match in _WORD.finditer(plain):
        name = match[0].rstrip(".:/_-")
        if "-" in name and any(char.isdigit() for char in name):
            found += plain[end : match.start()]
            found += Markup('<span class="whole">{}</span>').format(name)
            end = match.start() + len(name)
    return found + plain[end:]
