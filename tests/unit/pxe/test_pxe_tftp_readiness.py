"""The worker looks for answers before it sleeps: while that pays, and hardly ever where it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from pxe.tftp.readiness import FRUITLESS, LOOKING_S, LOOKS, RESTS, Readiness

ONE = [(7, 1)]


class Machine:
    """An epoll object, a clock and a processor in one.

    Args:
        answer_after: looks until a packet is there; None where it comes while the worker sleeps.
        look_s: how long one look takes.
    """

    def __init__(self, answer_after: int | None, look_s: float = 1e-6) -> None:
        self.answer_after = answer_after
        self.look_s = look_s
        self.now = 0.0
        self.looks = 0
        self.sleeps: list[float] = []
        self.gave_way = 0

    def poll(self, wait_s: float, _most: int) -> list[tuple[int, int]]:
        if wait_s > 0:
            self.sleeps.append(wait_s)
            return ONE
        self.looks += 1
        return ONE if self.answer_after is not None and self.looks >= self.answer_after else []

    def clock(self) -> float:
        return self.now

    def give_way(self) -> None:
        self.gave_way += 1
        self.now += self.look_s

    def readiness(self) -> Readiness:
        return Readiness(cast(Any, self), self.clock, self.give_way)


def turns(readiness: Readiness, machine: Machine) -> Iterator[int]:
    """Looks in each of the turns to come."""
    while True:
        machine.looks = 0
        assert readiness.wait(1.0, 16, is_soon=True) == ONE
        yield machine.looks


def test_an_answer_that_comes_at_once_is_taken_without_sleeping() -> None:
    machine = Machine(answer_after=3)
    looks = turns(machine.readiness(), machine)
    assert [next(looks) for _ in range(1000)] == [3] * 1000
    assert machine.sleeps == []
    assert machine.gave_way == 3000, "the client must get the processor between two looks"


def test_a_board_that_takes_its_time_is_waited_for_asleep() -> None:
    machine = Machine(answer_after=None)
    looks = turns(machine.readiness(), machine)
    assert [next(looks) for _ in range(FRUITLESS)] == [LOOKS] * FRUITLESS
    assert [next(looks) for _ in range(RESTS)] == [0] * RESTS
    assert next(looks) == LOOKS, "tried again now and then"
    assert [next(looks) for _ in range(RESTS)] == [0] * RESTS, "and one time in vain is enough"
    assert machine.sleeps == [1.0] * (FRUITLESS + 2 * RESTS + 1)


def test_a_client_that_has_become_fast_is_noticed() -> None:
    machine = Machine(answer_after=None)
    looks = turns(machine.readiness(), machine)
    for _ in range(FRUITLESS + RESTS):
        next(looks)
    machine.answer_after = 2
    assert [next(looks) for _ in range(RESTS)] == [2] * RESTS


@pytest.mark.parametrize("answer_after", [1, None], ids=["with an answer", "without"])
def test_on_a_busy_processor_giving_way_is_left_off_at_once(answer_after: int | None) -> None:
    machine = Machine(answer_after, look_s=LOOKING_S * 2)
    looks = turns(machine.readiness(), machine)
    assert [next(looks) for _ in range(1 + RESTS)] == [1] + [0] * RESTS
    assert machine.gave_way == 1, "others had it for longer than any answer takes"
    assert [next(looks) for _ in range(1 + 2 * RESTS)] == [1] + [0] * 2 * RESTS, "less and less often"


@pytest.mark.parametrize(
    ("wait_s", "is_soon"), [(1.0, False), (LOOKING_S / 2, True)], ids=["nothing was sent", "a timer is due"]
)
def test_without_a_reason_it_does_not_look(wait_s: float, is_soon: bool) -> None:
    machine = Machine(answer_after=1)
    assert machine.readiness().wait(wait_s, 16, is_soon=is_soon) == ONE
    assert machine.sleeps == [wait_s]


def test_what_is_overdue_does_not_sleep() -> None:
    machine = Machine(answer_after=None)
    assert machine.readiness().wait(-3.0, 16, is_soon=True) == []
    assert (machine.looks, machine.sleeps) == (1, [])
