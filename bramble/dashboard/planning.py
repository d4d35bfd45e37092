"""Pages on which something large is planned and then begun, as it was planned: a rollout, a recovery.

What is wanted is chosen from what there is, and stands in the address of the plan. The form that begins it
carries the same, what was planned, and the cluster's name, typed. Their template is `plan.html`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar

from aiohttp import web

from bramble.dashboard.choices import Choice
from bramble.dashboard.guard import FORM
from bramble.dashboard.question import Plan
from bramble.dashboard.site import SITE
from fleet.refusal import RefusedError

T = TypeVar("T")


async def in_time(
    plan: Awaitable[T], within_s: float, late: str = "there was no plan", hint: str = "Try again."
) -> T:
    """What is planned with an answer of the cluster, whose servers may be away.

    Raises:
        RefusedError: `late`, with its hint: it took longer.
    """
    try:
        async with asyncio.timeout(within_s):
            return await plan
    except TimeoutError as error:
        raise RefusedError(503, "timeout", f"{late} within {within_s:.0f} s", hint) from error


def show_plan(
    request: web.Request,
    template: str,
    *,
    choices: Mapping[str, Sequence[Choice]],
    wanted: Mapping[str, str],
    plan: object | None,
    planned: str,
    findings: Plan,
    problem: str,
    **more: Any,
) -> web.Response:
    """The page.

    Args:
        choices: What there is to choose from, by the field's name; `wanted` is what was chosen.
        plan: What would follow; None where nobody asked yet.
        planned: What the form carries of it, so that nothing else is begun.
        findings: What stands against it, and what to know.
        problem: What is wrong with the form that was to begin it; empty for nothing.
    """
    return request.app[SITE].page(
        request,
        template,
        422 if problem else 200,
        choices=choices,
        wanted=wanted,
        plan=plan,
        planned=planned,
        findings=findings,
        problem=problem,
        form=request[FORM] if request.method == "POST" else {},
        **more,
    )
