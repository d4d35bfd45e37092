"""Log lines of nodes: asked for on a node's page, and kept here for whoever looks at it next.

The node hears of the question with its next report and sends its newest lines, or those since the last ones.
What it sent is kept in memory, of the nodes that were asked last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from aiohttp import web

from bramble.dashboard.doing import told_if_refused
from bramble.dashboard.guard import require_admin
from bramble.dashboard.site import SITE
from fleet.errands import ErrandDesk
from fleet.refusal import RefusedError
from fleet.views import timeline_view

MAX_NODES: Final = 32
MAX_LINES: Final = 600
ASKED_LINES: Final = 200
MAX_LINE: Final = 400
PAGE_BYTES: Final = 64_000
"""Of lines on the page, the newest: a page stays below 100 KB."""


@dataclass(slots=True, kw_only=True)
class _Shelf:
    """What is kept of one node. `asked` is the number of the question that is not answered yet."""

    lines: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_LINES))
    cursor: str = ""
    at: float | None = None
    source: str = ""
    dropped: int = 0
    asked: int | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogShown:
    """A node's log as it is known.

    Attributes:
        lines: The oldest first, as many of the newest as a page holds.
        at: When they came, UTC seconds; None: none did yet.
        source: `journal`, or `memory`: then only the agent's own lines.
        dropped: Lines that were too many for one answer.
        waits: The node was asked and did not answer yet.
        problem: Why there is no answer.
    """

    lines: tuple[str, ...]
    at: float | None
    source: str
    dropped: int
    waits: bool
    problem: str


class Logs:
    """The shelves of all nodes. One per server."""

    def __init__(self, errands: ErrandDesk, clock: Callable[[], float]) -> None:
        self._errands = errands
        self._clock = clock
        self._shelves: dict[str, _Shelf] = {}

    def ask(self, name: str, *, follow: bool = False) -> None:
        """Ask a node for what is new in its log; a question that stands is waited for.

        Args:
            follow: It is to report sooner for a while.

        Raises:
            RefusedError: It does not report, or somebody else waits for it.
        """
        shelf = self._shelves.get(name) or _Shelf()
        self._take(name, shelf)
        if shelf.asked is not None:
            return
        shelf.asked = self._errands.ask_logs(name, lines=ASKED_LINES, cursor=shelf.cursor, follow=follow)
        shelf.problem = ""
        self._shelves.pop(name, None)
        self._shelves[name] = shelf
        while len(self._shelves) > MAX_NODES:
            del self._shelves[next(iter(self._shelves))]

    def look(self, name: str) -> LogShown:
        """What is known now."""
        shelf = self._shelves.get(name) or _Shelf()
        self._take(name, shelf)
        return LogShown(
            lines=_newest(shelf.lines),
            at=shelf.at,
            source=shelf.source,
            dropped=shelf.dropped,
            waits=shelf.asked is not None,
            problem=shelf.problem,
        )

    def _take(self, name: str, shelf: _Shelf) -> None:
        """Fetch the answer, where it is there."""
        if shelf.asked is None:
            return
        try:
            answer: dict[str, Any] = self._errands.fetch(name, shelf.asked)
        except RefusedError as error:
            shelf.asked, shelf.problem = None, error.message
            return
        if not answer["done"]:
            return
        if answer["source"] != shelf.source:
            shelf.lines.clear()
        shelf.lines.extend(line[:MAX_LINE] for line in answer["lines"])
        shelf.asked, shelf.cursor, shelf.at = None, answer["cursor"], self._clock()
        shelf.source, shelf.dropped = answer["source"], answer["dropped"]


def _newest(lines: deque[str]) -> tuple[str, ...]:
    found: list[str] = []
    room = PAGE_BYTES
    for line in reversed(lines):
        room -= len(line.encode()) + 1
        if room < 0:
            break
        found.append(line)
    return tuple(reversed(found))


class LogPages:
    """A page for each node's log, for admins: a log can tell more than a viewer is to know."""

    def __init__(self) -> None:
        self._shelves: Logs | None = None

    def _logs(self, request: web.Request) -> Logs:
        if self._shelves is None:
            site = request.app[SITE]
            self._shelves = Logs(site.controller.errands, site.clock)
        return self._shelves

    async def show(self, request: web.Request) -> web.Response:
        """What is known of it; with `follow` in the address it is asked for more whenever it has answered."""
        require_admin(request)
        name, logs = _node(request), self._logs(request)
        shown, follows = logs.look(name), "follow" in request.query
        problem, hint = shown.problem, ""
        if follows and not shown.waits:
            try:
                logs.ask(name, follow=True)
            except RefusedError as error:
                # Whom somebody else asked answers soon; who does not report will not.
                follows, problem, hint = error.code == "busy", error.message, error.hint
            else:
                shown = logs.look(name)
        return request.app[SITE].page(
            request, "log.html", name=name, log=shown, follows=follows, problem=problem, hint=hint
        )

    async def ask(self, request: web.Request) -> web.StreamResponse:
        """Have the node asked."""
        session, name = require_admin(request), _node(request)
        with told_if_refused(session):
            self._logs(request).ask(name)
        return web.Response(status=303, headers={"Location": f"/nodes/{quote(name)}/log"})


def _node(request: web.Request) -> str:
    name = request.match_info["name"]
    found = timeline_view(request.app[SITE].controller.store, name)
    if found is None or found.node is None:
        raise RefusedError(404, "node", f"There is no node {name!r}.", "The rack shows all of them.")
    return found.node.name
