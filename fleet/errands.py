"""Errands to nodes: log lines and single commands that a person waits for.

They live in memory and for minutes: nothing follows from one, and after a restart people ask again. Where
several servers share the record, one whom the node does not report to says so at once. What is kept is who
had what run where: that stands in the timeline before the node is told.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from agent.errands import (
    LOGS,
    MAX_ARGUMENT_BYTES,
    MAX_ARGUMENTS,
    MAX_LOG_LINES,
    MAX_RUN_S,
    RUN,
    Errand,
    LogUpload,
    RunResult,
)
from agent.orders import ERRAND, SignedOrder
from fleet import events
from fleet.ground import Ground
from fleet.health.pace import MAX_INTERVAL_S
from fleet.lifecycle import REIMAGING, State
from fleet.refusal import RefusedError, no_such_node
from fleet.reports_to import other_server
from fleet.spec.model import RemoteRun
from fleet.store.records import NodeRecord

EXPIRES_S: Final = 120.0
"""An errand that was not fetched by then is forgotten, and so is an answer that nobody fetched."""
ANSWER_TIMEOUT_S: Final = MAX_INTERVAL_S + 30.0
"""How long who asked for log lines waits for them: the node hears of it with its next report."""
UNFETCHED_S: Final = 3.0
"""Who waits for log lines looks several times a second: after so long without a look nobody does."""
FOLLOW_INTERVAL_S: Final = 2.0
"""How often a node reports while somebody follows its log."""
FOLLOWED_S: Final = 15.0
_COUNTER: Final = "errand.number"
_HEARD: Final = (State.JOINING, State.FAILED_JOINING, State.READY, State.DEGRADED, *sorted(REIMAGING))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """One node's errand. `answer` is None until the node has sent it."""

    errand: Errand
    asked_at: float
    answer: LogUpload | RunResult | None = None
    answered_at: float = 0.0
    fetched: bool = False

    def holds_place(self, now: float) -> bool:
        """Whether somebody still waits for it. Output of a command is kept for its asker until it expires."""
        if self.fetched:
            return False
        if self.errand.kind == RUN:
            return True
        if self.answer is None:
            return now - self.asked_at < ANSWER_TIMEOUT_S
        return now - self.answered_at < UNFETCHED_S


class ErrandDesk:
    """At most one errand for each node at a time."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._waiting: dict[str, _Waiting] = {}
        self._followed: dict[str, float] = {}
        self._last = 0

    def ask_logs(self, name: str, *, lines: int = 200, cursor: str = "", follow: bool = False) -> int:
        """Ask a node for its newest log lines; the number to fetch them by.

        Raises:
            RefusedError: There is no such node, it does not report, or somebody waits for it already.
        """
        if not 1 <= lines <= MAX_LOG_LINES or len(cursor) > 500 or not cursor.isprintable():
            raise RefusedError(400, "lines", f"lines is {lines}, expected 1 to {MAX_LOG_LINES}")
        self._require_reporting(name)
        now = self._ground.clock()
        if follow:
            self._followed[name] = now
        return self._put(name, Errand(0, LOGS, lines=lines, cursor=cursor), now)

    def ask_run(self, name: str, argv: list[str], timeout_s: float, who: str) -> int:
        """Have a node run a command; the number to fetch its output by.

        Raises:
            RefusedError: cluster.yaml does not permit it, the command is malformed, or as for `ask_logs`.
        """
        if self._ground.spec.policy.remote_run is not RemoteRun.ON:
            raise RefusedError(
                403,
                "remote-run-off",
                "running commands on nodes is off",
                "Say 'remote_run: on' under 'policy' in cluster.yaml; nodes installed from then on take it.",
            )
        too_long = any("\0" in word or len(word.encode()) > MAX_ARGUMENT_BYTES for word in argv)
        if not argv or not argv[0] or len(argv) > MAX_ARGUMENTS or too_long:
            raise RefusedError(400, "argv", f"a command has 1 to {MAX_ARGUMENTS} words without NUL")
        if not 0 < timeout_s <= MAX_RUN_S:
            raise RefusedError(400, "timeout_s", f"timeout_s is {timeout_s:g}, expected up to {MAX_RUN_S:g}")
        node = self._require_reporting(name)
        now = self._ground.clock()
        self._require_free(name, now)
        with self._ground.store.write() as tx:
            self._last = max(self._last, int(tx.value(_COUNTER) or 0))
            errand = Errand(self._next(now), RUN, argv=tuple(argv), timeout_s=timeout_s)
            tx.put_value(_COUNTER, str(errand.number))
            tx.add_event(events.run_ordered(shlex.join(argv), who), now, node=name, board=node.board_id)
        self._waiting[name] = _Waiting(errand=errand, asked_at=now)
        return errand.number

    def number_for(self, name: str) -> int:
        """Number of the errand that waits for the node; 0: none."""
        waiting = self._current(name)
        return 0 if waiting is None or waiting.answer is not None else waiting.errand.number

    def interval_s(self, name: str, usual_s: float) -> float:
        """How soon the node is to report again: sooner while somebody follows its log."""
        followed = self._ground.clock() - self._followed.get(name, float("-inf")) < FOLLOWED_S
        return min(usual_s, FOLLOW_INTERVAL_S) if followed else usual_s

    def order_for(self, node: NodeRecord) -> SignedOrder:
        """The errand for the caller.

        Raises:
            RefusedError: There is none.
        """
        waiting = self._current(node.name)
        if waiting is None or waiting.answer is not None:
            raise RefusedError(404, "no-errand", f"there is no errand for {node.name}")
        return self._ground.pki.sign_order(ERRAND, node.name, waiting.errand)

    def take(self, node: NodeRecord, answer: LogUpload | RunResult) -> None:
        """Keep a node's answer for the person; one that nobody waits for is dropped."""
        waiting = self._current(node.name)
        kind = LOGS if isinstance(answer, LogUpload) else RUN
        if waiting is None or (waiting.errand.number, waiting.errand.kind) != (answer.number, kind):
            return
        if waiting.answer is None:
            self._waiting[node.name] = replace(waiting, answer=answer, answered_at=self._ground.clock())

    def fetch(self, name: str, number: int) -> dict[str, Any]:
        """The answer as JSON values, `done` false while it is not there yet; kept until it expires.

        Raises:
            RefusedError: Nobody asked, or it was forgotten.
        """
        waiting = self._current(name)
        if waiting is None or waiting.errand.number != number:
            raise RefusedError(
                404, "no-errand", f"{name} was not asked this, or did not answer in time", "Ask again."
            )
        if waiting.answer is None:
            return {"done": False}
        self._waiting[name] = replace(waiting, fetched=True)
        return {"done": True, **asdict(waiting.answer)}

    def _put(self, name: str, errand: Errand, now: float) -> int:
        self._require_free(name, now)
        errand = replace(errand, number=self._next(now))
        self._waiting[name] = _Waiting(errand=errand, asked_at=now)
        return errand.number

    def _next(self, now: float) -> int:
        """Larger than any before, over restarts: milliseconds since 1970 where the clock was not set back."""
        self._last = max(self._last + 1, int(now * 1000))
        return self._last

    def _current(self, name: str) -> _Waiting | None:
        waiting = self._waiting.get(name)
        if waiting is not None and self._ground.clock() - waiting.asked_at > EXPIRES_S:
            del self._waiting[name]
            return None
        return waiting

    def _require_free(self, name: str, now: float) -> None:
        waiting = self._current(name)
        if waiting is None or not waiting.holds_place(now):
            return
        what = "the output of a command" if waiting.errand.kind == RUN else "log lines"
        until = EXPIRES_S if waiting.errand.kind == RUN else ANSWER_TIMEOUT_S
        raise RefusedError(
            409,
            "busy",
            f"somebody waits for {what} of {name}",
            f"Ask again in seconds; it is given up {until:.0f} s after it was asked.",
        )

    def _require_reporting(self, name: str) -> NodeRecord:
        with self._ground.store.read() as reader:
            node = reader.node(name)
            if node is None:
                raise no_such_node(name, (known.name for known in reader.nodes()))
            elsewhere = other_server(reader, self._ground, name)
        if node.state not in _HEARD or node.certificate is None:
            raise RefusedError(
                409,
                "not-reporting",
                f"{name} is {node.state}: no agent of it reports",
                f"'bramble show {name}'",
            )
        if elsewhere is not None:
            raise RefusedError(
                409,
                "reports-elsewhere",
                f"{name} reports to the control server {elsewhere}, and only that one can ask it",
                f"Ask there. When that server is gone, {name} reports here within five minutes.",
            )
        return node
