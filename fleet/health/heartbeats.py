"""Status reports of many nodes, a few milliseconds' worth in one transaction.

A commit waits for the disk, for milliseconds; a report by itself takes a fraction of one. So reports that
arrive while others are written, or within `WINDOW_S`, share a commit, and each is answered when that is
durable. One that is refused does not hold up the others, and where a transaction of many fails by a mistake
or by what one of them says, each is tried by itself.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from agent.protocol import Status, StatusAccepted
from fleet.join.desk import READ_WITH_STATUS, JoinDesk
from fleet.refusal import RefusedError
from fleet.store.database import Store, StoreError

log = logging.getLogger(__name__)

WINDOW_S: Final = 0.02
MAX_BATCH: Final = 500
"""Reports in one transaction: it must not keep everybody else from the loop for long."""


@dataclass(frozen=True, slots=True)
class _Report:
    certificate: str
    status: Status
    answer: asyncio.Future[StatusAccepted]


class StatusIntake:
    """Takes reports on the event loop's thread, in the order in which they came."""

    def __init__(self, store: Store, joins: JoinDesk) -> None:
        self._store = store
        self._joins = joins
        self._waiting: list[_Report] = []
        self._timer: asyncio.TimerHandle | None = None

    async def submit(self, certificate: str | None, status: Status) -> StatusAccepted:
        """Take a report; it is durable when this returns.

        Raises:
            RefusedError: The caller is nobody's agent, or the report cannot be one.
            StoreError: Nothing of it was kept; it may be sent again.
        """
        self._joins.check_status(certificate, status)
        loop = asyncio.get_running_loop()
        report = _Report(certificate or "", status, loop.create_future())
        self._waiting.append(report)
        if self._timer is None:
            self._timer = loop.call_later(WINDOW_S, self._write)
        elif len(self._waiting) == MAX_BATCH:
            self._timer.cancel()
            self._timer = loop.call_later(0, self._write)
        return await report.answer

    def _write(self) -> None:
        reports, self._waiting, self._timer = self._waiting, [], None
        try:
            answers = self._take(reports)
        except StoreError as error:
            if error.refuses_values and len(reports) > 1:
                log.warning("a report could not be taken; each is tried by itself: %s", error.message)
                answers = [self._take_alone(report) for report in reports]
            else:
                answers = [error] * len(reports)
        except Exception:
            log.exception("a report could not be taken; each is tried by itself")
            answers = [self._take_alone(report) for report in reports]
        for report, answer in zip(reports, answers, strict=True):
            if report.answer.done():
                continue  # its caller went away
            if isinstance(answer, Exception):
                report.answer.set_exception(answer)
            else:
                report.answer.set_result(answer)

    def _take(self, reports: list[_Report]) -> list[StatusAccepted | Exception]:
        with self._joins.memory(), self._store.write_batch() as tx:
            tx.fetch((report.certificate for report in reports), READ_WITH_STATUS)
            answers: list[StatusAccepted | Exception] = []
            for report in reports:
                try:
                    answers.append(self._joins.take_status(tx, report.certificate, report.status))
                except RefusedError as error:  # before anything was changed for this one
                    answers.append(error)
            return answers

    def _take_alone(self, report: _Report) -> StatusAccepted | Exception:
        try:
            return self._take([report])[0]
        except Exception as error:
            return error
