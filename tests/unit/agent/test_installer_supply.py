"""The installer's look at the supply: nothing is written under a brown-out, and nothing waits for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.errors import AgentError
from agent.installer.supply import GOOD_LOOKS, LOOK_S, PATIENCE_S, Supply, await_supply

FIRMWARE = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware"


def nothing() -> None:
    """The server has no objection."""


class Story:
    """A supply that is low as the list says, look by look, and then as its last entry."""

    def __init__(self, *looks: bool | None, check: Callable[[], None] = nothing) -> None:
        self.looks: Iterator[bool | None] = iter(looks)
        self.last: bool | None = None
        self.now = 0.0
        self.notes: list[str] = []
        self.check = check

    def is_low(self) -> bool | None:
        self.last = next(self.looks, self.last)
        return self.last

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def run(self) -> None:
        await_supply(
            self.is_low, note=self.notes.append, check=self.check, sleep=self.sleep, clock=lambda: self.now
        )


@pytest.mark.parametrize("reading", [False, None])
def test_a_supply_that_is_well_or_not_known_is_not_waited_for(reading: bool | None) -> None:
    story = Story(reading)
    story.run()
    assert (story.notes, story.now) == ([], 0.0)


def test_a_brown_out_is_waited_for_and_an_instant_of_good_voltage_is_not_its_end() -> None:
    story = Story(True, False, False, True, False, False, False)
    story.run()
    assert story.now == 6 * LOOK_S
    assert [text.split(",")[0] for text in story.notes] == ["waits", "the supply voltage is right again"]
    assert "nothing is written" in story.notes[0]
    assert "PoE" in story.notes[0]


def test_a_brown_out_without_an_end_ends_the_attempt() -> None:
    story = Story(True)
    with pytest.raises(AgentError, match="nothing was written") as failed:
        story.run()
    assert "power supply" in failed.value.hint
    assert PATIENCE_S <= story.now <= PATIENCE_S + LOOK_S * GOOD_LOOKS


def test_a_server_that_ends_the_installation_is_heard_while_it_waits() -> None:
    def closed() -> None:
        raise AgentError("the intent is closed")

    story = Story(True, check=closed)
    with pytest.raises(AgentError, match="the intent is closed"):
        story.run()


@pytest.mark.parametrize(
    ("throttled", "alarm", "is_low"),
    [
        (None, None, None),
        ("0", None, False),
        ("50000", None, False),  # it was low once, since the start
        ("50005", None, True),
        (None, "1", True),
        (None, "0", False),
        ("0", "1", True),
        ("not a number", None, None),
    ],
)
def test_readings_of_the_kernel(
    tmp_path: Path, throttled: str | None, alarm: str | None, is_low: bool | None
) -> None:
    if throttled is not None:
        place = tmp_path / FIRMWARE / "get_throttled"
        place.parent.mkdir(parents=True)
        place.write_text(f"{throttled}\n")
    if alarm is not None:
        monitor = tmp_path / "sys/class/hwmon/hwmon1"
        monitor.mkdir(parents=True)
        (monitor / "name").write_text("rpi_volt\n")
        (monitor / "in0_lcrit_alarm").write_text(f"{alarm}\n")
    assert Supply(tmp_path).is_low() is is_low
