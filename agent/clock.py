"""Whether this node's clock can be believed. Pure, but for `set_clock`.

A Pi 4 has no battery clock: it starts at the time that the last shutdown stored, or in 1970. Certificates
and joining need the time. The control server's time is a floor: a clock that is behind is set forward, one
that is ahead is left to time synchronisation, because only that knows better.
"""

from __future__ import annotations

import time

from agent.errors import AgentError
from agent.protocol import Problem

TOLERANCE_S = 60.0


def is_trusted(*, synchronised: bool, behind_s: float | None) -> bool:
    """True when time synchronisation vouches for the clock, or the server's differs by no more than a minute.

    Args:
        behind_s: how far the clock is behind the server's (negative: ahead); None before the first answer.
    """
    return synchronised or (behind_s is not None and abs(behind_s) <= TOLERANCE_S)


def needs_setting(*, synchronised: bool, behind_s: float | None) -> bool:
    return not synchronised and behind_s is not None and behind_s > TOLERANCE_S


def find_problem(*, synchronised: bool, behind_s: float | None) -> Problem | None:
    """The gate before joining: k3s with a wrong clock makes certificates that nobody accepts."""
    if is_trusted(synchronised=synchronised, behind_s=behind_s):
        return None
    if behind_s is None:
        state = "its distance from the control server's is not known yet"
    else:
        state = f"it is {abs(behind_s):.0f} s {'behind' if behind_s > 0 else 'ahead of'} the control server's"
    return Problem(
        code="clock",
        message=f"the clock is not synchronised and {state}",
        hint="Let the node reach a time server (UDP port 123), or name one in /etc/systemd/timesyncd.conf.",
    )


def set_clock(now: float) -> None:
    """Set the system clock, seconds since 1970.

    Raises:
        AgentError: not permitted.
    """
    try:
        time.clock_settime(time.CLOCK_REALTIME, now)
    except (OSError, OverflowError) as exc:  # the latter of a time that no clock can show
        raise AgentError(
            f"the clock can not be set to {now:g}: {exc}",
            "The agent's unit needs CAP_SYS_TIME and ProtectClock=no. Is the control server's clock right?",
        ) from exc
