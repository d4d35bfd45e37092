"""A recovery of the whole cluster, ordered from its page and called off there: what `bramble recover` does.

What would follow and what stands against it comes from the same desk, which is asked again when it begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from bramble.dashboard.access import Notice
from bramble.dashboard.choices import Choice, require_choices
from bramble.dashboard.doing import put_on_record, told_if_refused
from bramble.dashboard.guard import FORM, require_admin
from bramble.dashboard.planning import in_time, show_plan
from bramble.dashboard.question import Plan, Question, ask
from bramble.dashboard.site import SITE, Site
from bramble.dashboard.words import moment
from fleet.printable import size_text
from fleet.recovery.desk import Plan as RecoveryPlan
from fleet.refusal import RefusedError
from fleet.snapshots.desk import SCHEDULE
from fleet.snapshots.manifest import SnapshotInfo

PLAN_S: Final = 60.0
"""A snapshot is read through before it is planned with, and servers that are off are asked in vain."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A recovery as a form says it; every text is one that the form offers."""

    snapshot: str
    founder: str
    with_agents: bool

    def query(self) -> dict[str, str]:
        return {
            "snapshot": self.snapshot,
            "founder": self.founder,
            "with_agents": "yes" if self.with_agents else "",
        }


async def plan(request: web.Request) -> web.Response:
    """From which snapshot and on which server, and with `plan` in the address what would follow."""
    require_admin(request)
    wanted = _wanted(request.app[SITE], request.query)
    found = await _plan(request, wanted) if "plan" in request.query else None
    return _form(request, wanted, found)


async def begin(request: web.Request) -> web.StreamResponse:
    """Begin what was planned, if the cluster's name was typed and nothing stands against it by now."""
    session, site, form = require_admin(request), request.app[SITE], request[FORM]
    wanted = _wanted(site, form)
    founder = form.get("planned", "")
    if form.get("typed") != site.controller.spec.name or not founder:
        found = await _plan(request, wanted)
        return _form(request, wanted, found, f"Type {site.controller.spec.name} to go on.")
    with told_if_refused(session):
        begun = await site.controller.recovery.begin(
            wanted.snapshot, by=session.who, founder=founder, with_agents=wanted.with_agents
        )
        text = f"the cluster is recovered from snapshot {begun.snapshot}: {begun.founder} begins"
        session.notice = Notice("done", text)
        detail = {"snapshot": begun.snapshot, "founder": begun.founder}
        if wanted.with_agents:
            detail["with_agents"] = "true"
        put_on_record(request, session.who, "beginRecovery", detail)
    return _back()


async def confirm_cancel(request: web.Request) -> web.Response:
    """Ask once more before the recovery is called off."""
    require_admin(request)
    view = request.app[SITE].controller.recovery.status()
    problems: tuple[str, ...] = ()
    if view is None or not view.can_be_cancelled:
        problems = ("No recovery is under way that could still be called off.",)
    question = Question(
        verb="Call the recovery off",
        text="Everything becomes what it was: nodes are lost until their agents report. Those whose disks "
        "may be written by now are installed as blank ones.",
        post="/cluster/recover/cancel",
        back="/cluster",
        back_title="Cluster",
        plan=Plan(problems=problems),
    )
    return ask(request, question, {})


async def cancel(request: web.Request) -> web.StreamResponse:
    """Call the recovery off; the desk refuses once its founder was told to restore."""
    session, recovery = require_admin(request), request.app[SITE].controller.recovery
    with told_if_refused(session):
        session.notice = Notice("done", recovery.cancel(by=session.who))
        put_on_record(request, session.who, "cancelRecovery", {})
    return _back()


def _back() -> web.Response:
    return web.Response(status=303, headers={"Location": "/cluster"})


async def _plan(request: web.Request, wanted: Wanted) -> RecoveryPlan:
    if not wanted.snapshot:
        raise RefusedError(
            400, "snapshot", "No snapshot was chosen.", "Load the page anew, and choose one of the list."
        )
    found = request.app[SITE].controller.recovery.plan(
        wanted.snapshot, founder=wanted.founder or None, with_agents=wanted.with_agents
    )
    return await in_time(found, PLAN_S, hint="Try again, or 'bramble recover'.")


def _wanted(site: Site, said: Mapping[str, str]) -> Wanted:
    """What a form or an address says.

    Raises:
        RefusedError: It is none of what the form offers.
    """
    require_choices(said, _choices(site))
    return Wanted(said.get("snapshot", ""), said.get("founder", ""), said.get("with_agents") == "yes")


def _choices(site: Site) -> dict[str, list[Choice]]:
    """What there is to choose from: sound snapshots of this machine, the newest first, and servers."""
    kept = [one for one in site.controller.snapshots.everything() if isinstance(one, SnapshotInfo)]
    servers = [node.name for node in site.controller.spec.servers]
    return {
        "snapshot": [Choice(one.id, _snapshot_label(one)) for one in kept],
        "founder": [Choice("", "chosen by itself"), *(Choice(name, name) for name in servers)],
    }


def _snapshot_label(one: SnapshotInfo) -> str:
    by = "by schedule" if one.by == SCHEDULE else f"by {one.by}"
    return f"{moment(one.taken_at)} UTC, {size_text(one.size_bytes)}, of {one.node}, {by}"


def _form(
    request: web.Request, wanted: Wanted, found: RecoveryPlan | None, problem: str = ""
) -> web.Response:
    return show_plan(
        request,
        "recover.html",
        choices=_choices(request.app[SITE]),
        wanted=wanted.query(),
        plan=found,
        planned=found.founder if found is not None else "",
        others=[name for name in found.servers if name != found.founder] if found is not None else [],
        findings=Plan.of(found.problems, found.warnings) if found is not None else Plan(),
        problem=problem,
    )
