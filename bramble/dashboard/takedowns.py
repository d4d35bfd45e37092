"""Re-image, replace and decommission from a page: what would follow, and the order itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bramble.dashboard.planning import in_time
from bramble.dashboard.question import Plan
from fleet.lifecycle import FAILED_TWIN, REIMAGE_FROM, REIMAGING
from fleet.reimage.anew import OUTSIDE
from fleet.reimage.desk import Preview, ReimageDesk, refusal
from fleet.reimage.kinds import ReimageKind

PREVIEW_S: Final = 20.0
"""The cluster is asked, and its servers may be away."""
MAX_WHY: Final = 200

GO_ON: Final = frozenset(REIMAGING & frozenset(FAILED_TWIN.values()))
REIMAGE: Final = frozenset(REIMAGE_FROM)
REPLACE: Final = frozenset({*REIMAGE_FROM, *OUTSIDE})
DECOMMISSION: Final = frozenset({*REIMAGE_FROM, *OUTSIDE})
"""States in which a page offers each; the desk has the last word."""


async def plan(desk: ReimageDesk, kind: ReimageKind, name: str, form: Mapping[str, str], who: str) -> Plan:
    """What would follow."""
    shown = await _preview(desk, kind, name, form, who)
    return Plan.of(shown.problems, shown.warnings, tuple(step.replace("-", " ") for step in shown.steps))


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
    preview = desk.preview(
        name,
        kind=kind,
        image=form.get("image") or None,
        force_drain=form.get("force_drain") == "yes",
        by=who,
        serial=form.get("serial") or None,
    )
    return await in_time(preview, PREVIEW_S, "the cluster did not answer")
