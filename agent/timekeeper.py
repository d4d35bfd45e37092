"""This node's clock beside the control server's: compared with each answer, set forward where it has to be.

What counts as wrong is decided by `agent.clock`.
"""

from __future__ import annotations

import logging

from agent import clock
from agent.client import ControlClient
from agent.duties import Note
from agent.errors import AgentError
from agent.health import is_clock_synchronised
from agent.host import Host
from agent.protocol import Problem

NOTICED_JUMP_S = 1.0
log = logging.getLogger("bramble.agent")


class Timekeeper:
    """One per service.

    Args:
        client: Tells how far the clock is behind the time of the server's last answer.
        note: Says something in the next report.

    """

    def __init__(self, host: Host, client: ControlClient, note: Note) -> None:
        self._host = host
        self._client = client
        self._note = note
        self._compared: tuple[float, float, float] | None = None
        """How far the clock was behind the server's, with its own time and the steady one at that moment."""

    @property
    def behind_s(self) -> float | None:
        """How far the clock is behind the server's; None as long as they were not compared.

        Of a clock that somebody has set since, by years perhaps, the server is still the measure: it could
        not be asked again by one who believes the new time, because its certificate seems to be out of date.
        """
        if self._compared is None:
            return None
        behind_s, at, steady = self._compared
        jumped_s = (self._host.now() - at) - (self._host.monotonic() - steady)
        return behind_s - jumped_s if abs(jumped_s) > NOTICED_JUMP_S else behind_s

    def is_trusted(self) -> bool:
        """Whether dates can be checked."""
        return clock.is_trusted(synchronised=self._is_synchronised(), behind_s=self.behind_s)

    def find_problem(self) -> Problem | None:
        """What keeps k3s from being joined."""
        return clock.find_problem(synchronised=self._is_synchronised(), behind_s=self.behind_s)

    def compare(self, server_time: float | None = None) -> None:
        """Set the clock forward when it is far behind and nobody else keeps it.

        Args:
            server_time: UTC seconds; None: as of the client's last answer.
        """
        behind = self._client.clock_behind_s if server_time is None else server_time - self._host.now()
        self._keep(behind)
        if behind is None or not clock.needs_setting(synchronised=self._is_synchronised(), behind_s=behind):
            return
        try:
            self._host.set_clock(self._host.now() + behind)
        except AgentError as exc:
            self._note("clock", exc.message, exc.hint)
            return
        self._client.clock_behind_s = 0.0
        self._keep(0.0)
        log.warning("the clock was %.0f s behind and was set from the control server", behind)
        self._note(
            "clock_set",
            f"the clock was {behind:.0f} s behind and was set from the control server",
            "Let the node reach a time server, so that it stays right.",
        )

    def _keep(self, behind_s: float | None) -> None:
        at = self._host.now(), self._host.monotonic()
        self._compared = None if behind_s is None else (behind_s, *at)

    def _is_synchronised(self) -> bool:
        return is_clock_synchronised(self._host.root)
