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

log = logging.getLogger("bramble.agent")


class Timekeeper:
    """One per service.

    Args:
        client: Tells how far the clock is behind the time of the server's last answer.
        note: Says something in the next report.

    Attributes:
        behind_s: How far the clock was behind the server's when they were compared; None before that.
    """

    def __init__(self, host: Host, client: ControlClient, note: Note) -> None:
        self._host = host
        self._client = client
        self._note = note
        self.behind_s: float | None = None

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
        told = self._client.clock_behind_s
        self.behind_s = told if server_time is None else server_time - self._host.now()
        if not clock.needs_setting(synchronised=self._is_synchronised(), behind_s=self.behind_s):
            return
        behind = self.behind_s or 0.0
        try:
            self._host.set_clock(self._host.now() + behind)
        except AgentError as exc:
            self._note("clock", exc.message, exc.hint)
            return
        self.behind_s = self._client.clock_behind_s = 0.0
        log.warning("the clock was %.0f s behind and was set from the control server", behind)
        self._note(
            "clock_set",
            f"the clock was {behind:.0f} s behind and was set from the control server",
            "Let the node reach a time server, so that it stays right.",
        )

    def _is_synchronised(self) -> bool:
        return is_clock_synchronised(self._host.root)
