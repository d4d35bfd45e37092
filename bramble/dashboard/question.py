"""A page that asks once more: what would follow, what stands against it, and what has to be said or typed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web

from bramble.dashboard.choices import Choice
from bramble.dashboard.site import SITE
from fleet.reimage.problems import Problem


@dataclass(frozen=True, slots=True)
class Plan:
    """What would follow, shown before it is done: steps, what to know, and what stands against it."""

    steps: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, problems: Iterable[Problem], warnings: Iterable[Problem], steps: tuple[str, ...] = ()
    ) -> Plan:
        """With what the checks found, in sentences."""
        return cls(steps, tuple(map(_sentences, warnings)), tuple(map(_sentences, problems)))


def _sentences(problem: Problem) -> str:
    return f"{problem.text}. {problem.hint}" if problem.hint else f"{problem.text}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Blank:
    """Something to fill in. `choices`: those there are, the first unless another is chosen."""

    name: str
    label: str
    is_check: bool = False
    is_required: bool = False
    choices: Sequence[Choice] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked.

    Attributes:
        verb: On the button, and with a question mark above it.
        typed: What the person has to type; empty for nothing.
        post: Where the form goes.
        back: Where to go instead, and `back_title` what is there.
    """

    verb: str
    text: str
    post: str
    back: str
    back_title: str
    plan: Plan = Plan()
    blanks: Sequence[Blank] = ()
    typed: str = ""


def ask(request: web.Request, question: Question, form: Mapping[str, str], problem: str = "") -> web.Response:
    """The page of a question; with what was filled in before, and what was wrong with it."""
    status = 422 if problem else 200
    return request.app[SITE].page(
        request, "confirm.html", status, question=question, form=form, problem=problem
    )
