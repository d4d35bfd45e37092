"""Re-image, replace and decommission from a page: what would follow, and the order itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from fleet.lifecycle import FAILED_TWIN, REIMAGE_FROM, REIMAGING
from fleet.refusal import RefusedError
from fleet.reimage.desk import OUTSIDE, Preview, ReimageDesk, refusal
from fleet.reimage.kinds import ReimageKind
from fleet.reimage.problems import Problem

PREVIEW_S: Final = 20.0
"""The cluster is asked, and its servers may be away."""
MAX_WHY: Final = 200

GO_ON: Final = frozenset(REIMAGING & frozenset(FAILED_TWIN.values()))
REIMAGE: Final = frozenset(REIMAGE_FROM)
REPLACE: Final = frozenset({*REIMAGE_FROM, *OUTSIDE})
DECOMMISSION: Final = frozenset({*REIMAGE_FROM, *OUTSIDE})
"""States in which a page offers each; the desk has the last word."""


async def plan(
    desk: ReimageDesk, kind: ReimageKind, name: str, form: Mapping[str, str], who: str
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Steps, warnings and problems, in words."""
    shown = await _preview(desk, kind, name, form, who)
    return (
        tuple(step.replace("-", " ") for step in shown.steps),
        tuple(map(_text, shown.warnings)),
        tuple(map(_text, shown.problems)),
    )


async def order(desk: ReimageDesk, kind: ReimageKind, name: str, form: Mapping[str, str], who: str) -> str:
    """Take the order unless something stands against it; what was done, for people.

    Raises:
        RefusedError: Something does.
    """
    if not desk.is_open(name, kind):
        shown = await _preview(desk, kind, name, form, who)
        if shown.problems:
            raise refusal(name, shown.problems)
    force, why = form.get("force_drain") == "yes", form.get("why", "")[:MAX_WHY]
    match kind:
        case ReimageKind.REIMAGE:
            image = form.get("image") or None
            return desk.request(name, image=image, force_drain=force, by=who, why=why)
        case ReimageKind.REPLACE:
            return desk.replace(name, form.get("serial", ""), force_drain=force, by=who, why=why)
        case ReimageKind.DECOMMISSION:
            return desk.decommission(name, force_drain=force, by=who, why=why)


async def _preview(
    desk: ReimageDesk, kind: ReimageKind, name: str, form: Mapping[str, str], who: str
) -> Preview:
    try:
        async with asyncio.timeout(PREVIEW_S):
            return await desk.preview(
                name,
                kind=kind,
                image=form.get("image") or None,
                force_drain=form.get("force_drain") == "yes",
                by=who,
                serial=form.get("serial") or None,
            )
    except TimeoutError as error:
        raise RefusedError(
            503, "timeout", f"the cluster did not answer within {PREVIEW_S:.0f} s", "Try again."
        ) from error


def _text(problem: Problem) -> str:
    return f"{problem.text}. {problem.hint}" if problem.hint else f"{problem.text}."
