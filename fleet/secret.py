"""A text that must not be shown: tokens, tickets, passwords."""

from __future__ import annotations

import hashlib
import hmac


class Secret:
    """Holds a secret text; `repr`, `str` and formatting give `***`.

    It is not a dataclass and not serialisable on purpose: whoever needs the text says `reveal()`, which is
    easy to search for.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The secret itself, for the one place that sends or writes it."""
        return self._text

    @property
    def sha256(self) -> str:
        """Hex digest: may be stored to recognise the secret later, if that has 128 random bits or more."""
        return hashlib.sha256(self._text.encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format("***", spec)
