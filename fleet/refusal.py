"""The one error with which the control server answers a caller."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from fleet.errors import FleetError
from fleet.printable import printable


class RefusedError(FleetError):
    """A request that is understood and not granted.

    Attributes:
        status: HTTP status of the answer.
        code: Short word of the answer's `error` field; part of the protocol.
    """

    def __init__(self, status: int, code: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.status = status
        self.code = code


def no_such_node(name: str, known: Iterable[str], what: str = "there is no node") -> RefusedError:
    """The refusal for a name that no node has; its hint has the nearest name.

    Args:
        what: The message up to the name.
    """
    return RefusedError(404, "node", f"{what} {name!r}", nearest_hint(name, known))


def nearest_hint(name: str, known: Iterable[str], listed_by: str = "bramble nodes") -> str:
    """`Did you mean 'pi4-worker-1'?`, and which command lists the names."""
    folded = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.6)
    question = f"Did you mean {printable(folded[near[0]])!r}? " if near else ""
    return f"{question}'{listed_by}' lists them."
