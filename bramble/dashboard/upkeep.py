"""The pages of what concerns the whole fleet, and what can be done there: a rollout above all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from bramble.dashboard.access import Notice
from bramble.dashboard.choices import Choice, images_by_id, require_choices
from bramble.dashboard.doing import put_on_record, told_if_refused
from bramble.dashboard.guard import FORM, require_admin
from bramble.dashboard.pages import see_what_is_new
from bramble.dashboard.planning import in_time, show_plan
from bramble.dashboard.question import Plan, Question, ask
from bramble.dashboard.rack import Card
from bramble.dashboard.site import SITE, Site
from bramble.dashboard.takedowns import PREVIEW_S
from bramble.dashboard.upkeep_page import head_of, hold_line, judged, rollout_shown
from fleet.lifecycle import State
from fleet.policy.words import in_force_text, span_text
from fleet.refusal import RefusedError
from fleet.reimage.problems import Problem
from fleet.rollout.desk import DEFAULT_SOAK_S

MAX_JUDGED: Final = 50
MAX_ORDER: Final = 60
SOAKS: Final = (0.0, DEFAULT_SOAK_S, 3600.0, 6 * 3600.0, 86_400.0)
PARALLEL: Final = (1, 2, 3, 5, 10, 20, 50)
NEWEST: Final = ""
"""The image that 'bramble build' made last of the cluster.yaml in force."""
_BLANKS: Final = ("image", "canary", "max_parallel", "soak_s")


async def show(request: web.Request) -> web.Response:
    """The rollout, the fleet lock, and what the policy does."""
    site = request.app[SITE]
    see_what_is_new(site)
    controller = site.controller
    rollout = rollout_shown(controller.rollouts.view(), _cards(site), site.clock())
    holds = [hold_line(hold) for hold in controller.lock.holds()]
    policy = controller.policy.view()
    failed = judged(policy)
    return site.page(
        request,
        "upkeep.html",
        mark=site.feed.mark_of(site.feed.cursor),
        head=head_of(rollout, holds, failed),
        rollout=rollout,
        # What needs a look comes first, and an order that has ended does not.
        is_rollout_first=not (holds or failed) or (rollout is not None and rollout.phase.is_open),
        holds=holds,
        policy=policy,
        in_force=in_force_text(policy),
        failed=failed[:MAX_JUDGED],
        hidden=max(len(failed) - MAX_JUDGED, 0),
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """A rollout as a form says it; every text is one that the form offers."""

    image: str
    canary: str
    max_parallel: str
    soak_s: str

    def order(self) -> dict[str, Any]:
        """By the names of `RolloutDesk.start`."""
        return {
            "image": self.image or None,
            "canary": self.canary or None,
            "max_parallel": int(self.max_parallel) if self.max_parallel else None,
            "soak_s": float(self.soak_s) if self.soak_s else DEFAULT_SOAK_S,
        }

    def query(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in _BLANKS}


async def plan_rollout(request: web.Request) -> web.Response:
    """What to roll out and how, and with `plan` in the address what would follow."""
    session = require_admin(request)
    see_what_is_new(request.app[SITE])
    wanted = _wanted(request.app[SITE], request.query)
    answer = await _start(request, wanted, session.who, dry_run=True) if "plan" in request.query else None
    return _form(request, wanted, answer)


async def begin_rollout(request: web.Request) -> web.StreamResponse:
    """Begin what was planned, if that is still the plan and the cluster's name was typed."""
    session, site, form = require_admin(request), request.app[SITE], request[FORM]
    see_what_is_new(site)
    wanted = _wanted(site, form)
    shown = await _start(request, wanted, session.who, dry_run=True)
    image = shown["plan"]["image"]
    if form.get("planned") != image:
        problem = "Another image was built meanwhile: look at the plan again."
        return _form(request, wanted, shown, problem)
    if form.get("typed") != site.controller.spec.name:
        return _form(request, wanted, shown, f"Type {site.controller.spec.name} to go on.")
    with told_if_refused(session):
        begun = (await _start(request, wanted, session.who, dry_run=False))["plan"]
        session.notice = Notice(
            "done",
            f"image {begun['image'][:12]} goes to {len(begun['nodes'])} node(s), {begun['canary']} first",
        )
        detail = {"image": begun["image"], "canary": begun["canary"], "dry_run": "false"}
        put_on_record(request, session.who, "startRollout", detail)
    return _back()


_QUESTIONS: Final[Mapping[str, tuple[str, str]]] = {
    "pause": ("Pause the rollout", "No further node is taken; those that are under way go on to their end."),
    "resume": (
        "Go on with the rollout",
        "The next nodes are installed again, each under the same checks. One that failed gets another turn.",
    ),
    "abort": (
        "Abort the rollout",
        "It ends. Nodes that have the new image keep it, and those under way go on to their end. To go back, "
        "roll the old image out.",
    ),
}


async def confirm(request: web.Request) -> web.Response:
    """Ask once more before a rollout is aborted, or goes on."""
    require_admin(request)
    word, (verb, text) = _word(request)
    question = Question(
        verb=verb, text=text, post=f"/upkeep/do/{word}", back="/upkeep", back_title="Upkeep", plan=Plan()
    )
    return ask(request, question, {})


async def do(request: web.Request) -> web.StreamResponse:
    """Pause, resume or abort the rollout."""
    session, rollouts = require_admin(request), request.app[SITE].controller.rollouts
    word, _ = _word(request)
    act = {"pause": rollouts.pause, "resume": rollouts.resume, "abort": rollouts.abort}[word]
    with told_if_refused(session):
        session.notice = Notice("done", act(session.who))
        put_on_record(request, session.who, f"{word}Rollout", {})
    return _back()


def _back() -> web.Response:
    return web.Response(status=303, headers={"Location": "/upkeep"})


def _word(request: web.Request) -> tuple[str, tuple[str, str]]:
    word = request.match_info["word"]
    if word not in _QUESTIONS:
        raise RefusedError(404, "action", "There is no such action.")
    return word, _QUESTIONS[word]


def _cards(site: Site) -> dict[str, Card]:
    return {card.name: card for card in site.feed.cards}


async def _start(request: web.Request, wanted: Wanted, who: str, *, dry_run: bool) -> dict[str, Any]:
    rollouts = request.app[SITE].controller.rollouts
    return await in_time(rollouts.start(**wanted.order(), by=who, dry_run=dry_run), PREVIEW_S)


def _wanted(site: Site, said: Mapping[str, str]) -> Wanted:
    """What a form or an address says.

    Raises:
        RefusedError: It is none of what the form offers.
    """
    require_choices(said, _choices(site))
    return Wanted(**{name: said.get(name, "") for name in _BLANKS})


def _choices(site: Site) -> dict[str, list[Choice]]:
    out = (State.DECLARED.value, State.DECOMMISSIONED.value)
    nodes = [
        Choice(card.name, f"{card.name}, {card.role}") for card in site.feed.cards if card.state not in out
    ]
    allowed = site.controller.spec.policy.reimage.max_parallel
    return {
        "image": [
            Choice(NEWEST, "what 'bramble build' made last of the cluster.yaml in force"),
            *images_by_id(site.images()),
        ],
        "canary": [Choice("", "chosen by itself"), *nodes],
        "max_parallel": [
            Choice("", f"{allowed}, as the policy allows"),
            *(Choice(str(count), str(count)) for count in PARALLEL if count < allowed),
        ],
        "soak_s": [
            Choice("" if soak == DEFAULT_SOAK_S else f"{soak:.0f}", span_text(soak) if soak else "not at all")
            for soak in sorted(SOAKS, key=lambda soak: soak != DEFAULT_SOAK_S)
        ],
    }


def _form(
    request: web.Request, wanted: Wanted, answer: Mapping[str, Any] | None, problem: str = ""
) -> web.Response:
    plan = answer["plan"] if answer is not None else None
    return show_plan(
        request,
        "rollout.html",
        choices=_choices(request.app[SITE]),
        wanted=wanted.query(),
        plan=plan,
        planned=plan["image"] if plan is not None else "",
        findings=_findings(answer) if answer is not None else Plan(),
        nodes=plan["nodes"][:MAX_ORDER] if plan is not None else (),
        hidden=max(len(plan["nodes"]) - MAX_ORDER, 0) if plan is not None else 0,
        soak=span_text(plan["soak_s"]) if plan is not None else "",
        problem=problem,
    )


def _findings(answer: Mapping[str, Any]) -> Plan:
    problems, warnings = ([Problem(**one) for one in answer[what]] for what in ("problems", "warnings"))
    return Plan.of(problems, warnings)
