"""Switching boards: what an order does with its outlet, and how often a board may lose its power."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.power.cycle import Pace, cycle, switch_off, switch_on
from fleet.power.driver import PowerError, PowerState
from fleet.power.limits import MAX_IN_WINDOW, MIN_BETWEEN_S, WINDOW_S, refusal


@dataclass
class FakeOutlet:
    """An outlet whose faults are a list: each call takes one off; `None` works."""

    state_now: PowerState = PowerState.ON
    faults: list[str | None] = field(default_factory=list)
    lag: int = 0
    stuck: bool = False
    can_tell: bool = True
    calls: list[str] = field(default_factory=list)
    _shown: list[PowerState] = field(default_factory=list)

    async def on(self) -> None:
        self._take("on", PowerState.ON)

    async def off(self) -> None:
        self._take("off", PowerState.OFF)

    async def state(self) -> PowerState:
        self.calls.append("state")
        if not self.can_tell:
            return PowerState.UNKNOWN
        return self._shown.pop(0) if self._shown else self.state_now

    def _take(self, what: str, state: PowerState) -> None:
        self.calls.append(what)
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            raise PowerError(fault)
        if not self.stuck:
            self._shown = [self.state_now] * self.lag
            self.state_now = state


@dataclass
class Waited:
    """Time that passes at once."""

    seconds: list[float] = field(default_factory=list)

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def pace(waited: Waited | None = None) -> Pace:
    return Pace(sleep=waited or Waited())


def test_cycle_waits_until_it_is_off_before_it_counts_the_pause() -> None:
    outlet, waited = FakeOutlet(lag=3), Waited()
    asyncio.run(cycle(outlet, 5, pace(waited)))
    assert waited.seconds[:4] == [1.0, 1.0, 1.0, 5]
    assert [call for call in outlet.calls if call != "state"] == ["off", "on"]
    assert outlet.state_now is PowerState.ON


def test_outlet_that_does_not_go_off_is_switched_on_and_reported() -> None:
    outlet = FakeOutlet(stuck=True)
    with pytest.raises(PowerError, match="the outlet is on"):
        asyncio.run(cycle(outlet, 5, pace()))
    assert outlet.calls[-2:] == ["on", "state"]


def test_off_that_fails_may_have_worked_so_on_follows() -> None:
    """The answer to 'off' was lost on the way: the board is dark all the same."""
    outlet = FakeOutlet(state_now=PowerState.OFF, faults=["did not answer within 6 s"])
    with pytest.raises(PowerError, match="did not answer"):
        asyncio.run(cycle(outlet, 5, pace()))
    assert outlet.state_now is PowerState.ON


def test_on_is_tried_again_before_the_board_is_given_up() -> None:
    outlet = FakeOutlet(faults=[None, "busy", "busy", None])
    asyncio.run(cycle(outlet, 5, pace()))
    assert outlet.state_now is PowerState.ON
    dark = FakeOutlet(faults=[None, *["busy"] * 4])
    with pytest.raises(PowerError, match="the board is off and can not be switched on: busy"):
        asyncio.run(cycle(dark, 5, pace()))


def test_board_is_not_left_dark_by_whoever_cancels() -> None:
    outlet = FakeOutlet()

    async def scene() -> None:
        at_pause = asyncio.Event()

        async def sleep(seconds: float) -> None:
            at_pause.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(cycle(outlet, 5, Pace(sleep=sleep)))
        await at_pause.wait()
        assert outlet.state_now is PowerState.OFF
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scene())
    assert outlet.state_now is PowerState.ON


def test_device_that_can_not_be_asked_is_believed() -> None:
    outlet, waited = FakeOutlet(can_tell=False), Waited()
    found = asyncio.run(cycle(outlet, 7, pace(waited)))
    assert "can not be asked" in found
    assert waited.seconds == [7]


def test_on_and_off_say_what_was_seen() -> None:
    outlet = FakeOutlet()
    assert "off" in asyncio.run(switch_off(outlet, pace()))
    assert "on" in asyncio.run(switch_on(outlet, pace()))


@given(st.lists(st.sampled_from([None, "lost"]), max_size=8), st.integers(0, 30), st.booleans())
def test_whatever_a_device_does_the_last_word_to_it_is_on(
    faults: list[str | None], lag: int, stuck: bool
) -> None:
    outlet = FakeOutlet(faults=list(faults), lag=lag, stuck=stuck)
    try:
        asyncio.run(cycle(outlet, 5, pace()))
        succeeded = True
    except PowerError:
        succeeded = False
    words = [call for call in outlet.calls if call != "state"]
    assert words[0] == "off"
    assert words[-1] == "on"
    assert words.count("off") == 1
    if succeeded:
        assert outlet.state_now is PowerState.ON


def test_power_is_not_cut_again_before_a_board_can_have_started() -> None:
    assert refusal([], 1000.0) is None
    assert "a board needs 60 s" in str(refusal([1000.0], 1000.0 + MIN_BETWEEN_S - 1))
    assert refusal([1000.0], 1000.0 + MIN_BETWEEN_S) is None


def test_power_is_cut_so_often_an_hour_and_no_more() -> None:
    cuts = [1000.0 + 100 * number for number in range(MAX_IN_WINDOW)]
    now = cuts[-1] + MIN_BETWEEN_S
    assert refusal(cuts[1:], now) is None
    assert f"{MAX_IN_WINDOW} times within an hour" in str(refusal(cuts, now))
    assert refusal(cuts, cuts[0] + WINDOW_S) is None


def test_clock_that_was_set_back_does_not_open_the_limit() -> None:
    assert refusal([5000.0], 1000.0) is not None


@given(st.lists(st.floats(0, 20_000), max_size=40))
def test_no_series_of_orders_gets_around_the_limit(orders: list[float]) -> None:
    cuts: list[float] = []
    for now in sorted(orders):
        if refusal(cuts, now) is None:
            cuts.append(now)
    for start in cuts:
        assert sum(start <= cut < start + WINDOW_S for cut in cuts) <= MAX_IN_WINDOW
    assert all(after - before >= MIN_BETWEEN_S for before, after in itertools.pairwise(cuts))
