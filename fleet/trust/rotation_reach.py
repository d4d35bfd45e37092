"""How far a control CA has come among the nodes, and what a step of its replacement means for each. Pure.

What a node trusts is handed out with its certificate, so the moment of the newest one tells.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from fleet.printable import counted
from fleet.store.records import NodeRecord

NAMED: Final = 12
"""Names in one sentence; how many more there are stands behind them."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Names of the nodes that hold a certificate: those whose newest one is from after a moment, and used,
    and the others."""

    reached: tuple[str, ...]
    behind: tuple[str, ...]


def reach(nodes: Iterable[NodeRecord], enrolled_since: Collection[str]) -> Reach:
    """Who got a certificate since then.

    A newer one counts when the node has used it: until then its answer may have got lost.

    Args:
        enrolled_since: Names of the nodes that were given a certificate since.
    """
    held = [node for node in nodes if node.certificate is not None]
    reached = [node.name for node in held if node.name in enrolled_since and not node.previous_certificate]
    return Reach(tuple(reached), tuple(node.name for node in held if node.name not in reached))


def switch_question(found: Reach, announced: float) -> str:
    """What putting the next CA in force comes to.

    Args:
        announced: When it was made, UTC seconds.
    """
    when = f"{datetime.fromtimestamp(announced, UTC):%F %H:%M} UTC"
    return (
        f"{_share(found, f'the next control CA, which was announced at {when}')} "
        f"{_behind(found, 'will trust nobody here, and will have to be installed again')}"
        "Put it in force? The present one's key is gone then."
    )


def retire_question(found: Reach, *, is_in_use: bool) -> str:
    """What ending the acceptance of the CA before this one comes to.

    Args:
        is_in_use: The server was started with the present CA.
    """
    unused = "" if is_in_use else "'bramble serve' was not started since the switch. "
    return (
        f"{unused}{_share(found, 'the present control CA and a certificate of it')} "
        f"{_behind(found, 'will be refused, and will have to be installed again')}"
        "Accept nothing any more that the CA before it issued? It cannot be brought back."
    )


def _share(found: Reach, what: str) -> str:
    total = len(found.reached) + len(found.behind)
    if not total:
        return "No node has a certificate yet."
    have = "has" if total == 1 else "have"
    return f"{len(found.reached)} of {counted(total, 'node')} {have} {what}."


def _behind(found: Reach, fate: str) -> str:
    return f"{_named(found.behind)} {fate}. " if found.behind else ""


def _named(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
