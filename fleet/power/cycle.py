"""Carries out one order on one outlet: off is verified before on, and a board is never left without power.

The driver does the talking; time comes in as `Pace`, so that a test needs none.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from fleet.power.driver import PowerDriver, PowerError, PowerState

VERIFY_S: Final = 15.0
"""How long the device may take to say that it did what it was told."""
POLL_S: Final = 1.0
ON_ATTEMPTS: Final = 4
"""A board that is off and should be on is worth some patience: the device may be restarting."""


class PowerAction(StrEnum):
    """What can be ordered."""

    ON = "on"
    OFF = "off"
    CYCLE = "cycle"

    @property
    def cuts(self) -> bool:
        """It takes the power away."""
        return self is not PowerAction.ON


@dataclass(frozen=True, slots=True)
class Pace:
    """How waiting is done; seconds."""

    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    verify_s: float = VERIFY_S
    poll_s: float = POLL_S


async def switch_on(driver: PowerDriver, pace: Pace) -> str:
    """Give power, and wait until the device says so; what was found, for people.

    Raises:
        PowerError: Not within `ON_ATTEMPTS`.
    """
    for attempt in range(1, ON_ATTEMPTS + 1):
        try:
            await driver.on()
            return await _await_state(driver, PowerState.ON, pace)
        except PowerError:
            if attempt == ON_ATTEMPTS:
                raise
            await pace.sleep(pace.poll_s * attempt)
    raise AssertionError("the last attempt returns or raises")


async def switch_off(driver: PowerDriver, pace: Pace) -> str:
    """Take the power away, and wait until the device says so; what was found, for people.

    Raises:
        PowerError: It did not, or still says that it is on.
    """
    await driver.off()
    return await _await_state(driver, PowerState.OFF, pace)


async def cycle(driver: PowerDriver, off_s: float, pace: Pace) -> str:
    """Off, a pause, on. Whatever goes wrong after the first word to the device, the last one is "on".

    Raises:
        PowerError: It was not seen to go off, so the board was perhaps not restarted; or it does not come
            on, which its text says first.
    """
    try:
        found = await switch_off(driver, pace)
        await pace.sleep(off_s)
    except BaseException as error:
        # Cancelled too: a server that is stopped in the middle does not leave a board dark.
        await _put_on_again(driver, pace, error)
        raise
    try:
        await _to_its_end(switch_on(driver, pace))
    except PowerError as error:
        raise PowerError(
            f"the board is off and can not be switched on: {error.message}", error.hint
        ) from error
    return found


async def _put_on_again(driver: PowerDriver, pace: Pace, cause: BaseException) -> None:
    try:
        await _to_its_end(switch_on(driver, pace))
    except PowerError as error:
        told = f" (at first: {cause.message})" if isinstance(cause, PowerError) else ""
        raise PowerError(
            f"the board may be off and can not be switched on: {error.message}{told}", error.hint
        ) from cause


async def _to_its_end(work: Coroutine[Any, Any, str]) -> None:
    """Whoever cancels waits for it."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(PowerError):
            await task
        raise


async def _await_state(driver: PowerDriver, wanted: PowerState, pace: Pace) -> str:
    waited_s = 0.0
    while True:
        found = await driver.state()
        if found is wanted:
            return f"the device says that it is {wanted}"
        if found is PowerState.UNKNOWN:
            return "the device can not be asked whether it is"
        if waited_s >= pace.verify_s:
            raise PowerError(
                f"the device took the order and says after {waited_s:.0f} s that the outlet is {found}",
                "Is another program switching it, or is its relay stuck?",
            )
        await pace.sleep(pace.poll_s)
        waited_s += pace.poll_s
