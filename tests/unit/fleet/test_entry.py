"""How a board gets into the installer: which way next, and that it ends."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.boards import BoardModel
from fleet.entry.ways import (
    MAX_CYCLES,
    MAX_REBOOTS,
    OVERDUE_S,
    PATIENCE_S,
    Agent,
    AskPerson,
    Power,
    PowerCycle,
    RebootByAgent,
    Tried,
    WaitForNetworkBoot,
    Way,
    WayIn,
    way_in,
)
from fleet.health.pace import RETURN_S, SMALL_FLEET, pace_of

NOW = 10_000.0
ALIVE = Agent(heard_at=NOW - 5, boot_id="old")
SILENT = Agent(heard_at=NOW - 500, boot_id="old")
PLUG = Power(can_switch=True)
NONE = Power()


def ask(
    agent: Agent, power: Power, tried: Tried, board: BoardModel = BoardModel.PI5, now: float = NOW
) -> WayIn:
    return way_in("pi-1", board, agent, power, tried, now)


def test_living_agent_is_told_first() -> None:
    assert ask(ALIVE, PLUG, Tried()) == RebootByAgent()
    assert ask(ALIVE, NONE, Tried(), BoardModel.PI4) == RebootByAgent()


def test_silent_board_is_power_cycled_and_without_a_switch_a_person_is_told_what_to_do() -> None:
    assert ask(SILENT, PLUG, Tried()) == PowerCycle("it does not answer")
    found = ask(SILENT, NONE, Tried())
    assert isinstance(found, AskPerson)
    assert found.text.startswith(
        "pi-1 has no switch that Bramble could use and does not answer: pull its plug"
    )
    four = ask(Agent(), NONE, Tried(), BoardModel.PI4)
    assert isinstance(four, AskPerson)
    assert "bramble eeprom apply pi-1" in four.text


@pytest.mark.parametrize("power", [PLUG, NONE], ids=["plug", "no-switch"])
def test_server_that_was_away_gives_a_silent_node_time_to_report(power: Power) -> None:
    """Its agent pauses for five minutes at most when nobody answers."""
    old = Tried().with_cycle("old", NOW - 7200)  # of before the server went away
    for tried in (Tried(), old):
        silent = replace(SILENT, heard_at=NOW - 7200, listened_since=NOW)
        for later in (0.0, 36.0, RETURN_S - 1):
            assert isinstance(ask(silent, power, tried, now=NOW + later), WaitForNetworkBoot)
        acts = PowerCycle if power.can_switch else AskPerson
        assert isinstance(ask(silent, power, tried, now=NOW + RETURN_S), acts)
        fresh = replace(silent, heard_at=None)
        assert isinstance(ask(fresh, power, tried, now=NOW - 1e8), acts), "the clock was set back"
    back = replace(SILENT, heard_at=NOW + 200, listened_since=NOW)
    assert ask(back, power, Tried(), now=NOW + 201) == RebootByAgent()
    again = ask(back, power, Tried(), now=NOW + 200 + SMALL_FLEET.silence_s + 1)
    assert isinstance(again, acts), "this very server heard it, and then no more"
    never = Agent(listened_since=None)
    assert isinstance(ask(never, power, Tried()), acts), "there is no agent that could report"


def test_nothing_else_is_tried_while_the_board_restarts() -> None:
    tried = Tried().with_reboot(1, "old", NOW)
    for later in (1.0, OVERDUE_S - 1, PATIENCE_S - 1):
        assert isinstance(ask(SILENT, PLUG, tried, now=NOW + later), WaitForNetworkBoot)
    assert ask(SILENT, PLUG, tried, now=NOW + PATIENCE_S) == PowerCycle("it does not answer")


def test_board_that_came_up_in_its_old_system_is_told_again_at_once() -> None:
    tried = Tried().with_reboot(1, "old", NOW)
    back = Agent(heard_at=NOW + 40, boot_id="new")
    assert ask(back, PLUG, tried, now=NOW + 41) == RebootByAgent()
    again = tried.with_reboot(2, "new", NOW + 41)
    assert isinstance(ask(back, PLUG, again, now=NOW + 45), WaitForNetworkBoot)


def test_agent_that_goes_on_reporting_is_told_again_after_a_while() -> None:
    tried = Tried().with_reboot(1, "old", NOW)
    for later, expected in ((30.0, WaitForNetworkBoot), (OVERDUE_S, RebootByAgent)):
        there = Agent(heard_at=NOW + later - 1, boot_id="old")
        assert isinstance(ask(there, PLUG, tried, now=NOW + later), expected)


def test_after_its_reboots_the_power_is_cut_and_what_comes_up_then_is_not_told_again() -> None:
    tried = replace(Tried().with_reboot(3, "old", NOW), reboots=MAX_REBOOTS)
    back = Agent(heard_at=NOW + 40, boot_id="new")
    assert ask(back, PLUG, tried, now=NOW + 41) == PowerCycle("it comes up in its old system again and again")
    cut = replace(tried.with_cycle("new", NOW + 41), cycles=MAX_CYCLES)
    late = Agent(heard_at=NOW + 100, boot_id="newer")
    found = ask(late, PLUG, cut, now=NOW + 101)
    assert isinstance(found, AskPerson)
    assert "was told 3 times to restart, was power-cycled 2 times and still runs its old system" in found.text


def test_hung_board_that_comes_up_after_a_cut_is_told_by_its_agent() -> None:
    cut = Tried().with_cycle("old", NOW)
    back = Agent(heard_at=NOW + 60, boot_id="new")
    assert ask(back, PLUG, cut, now=NOW + 61) == RebootByAgent()


def test_agent_that_refuses_gives_its_reason_to_a_person_and_no_cut_follows() -> None:
    tried = replace(Tried().with_reboot(1, "old", NOW), refused="its boot order 0xf41 …")
    found = ask(ALIVE, PLUG, tried)
    assert found == AskPerson("pi-1 can not restart into the installer: its boot order 0xf41 …")
    assert isinstance(ask(SILENT, PLUG, tried), PowerCycle), "it hangs now: another matter"


def test_brown_out_stops_the_restart_and_says_so() -> None:
    found = ask(replace(ALIVE, forbids_writing="its supply voltage is too low (4.6 V)"), PLUG, Tried())
    assert isinstance(found, AskPerson)
    assert "4.6 V" in found.text


def test_cut_that_is_not_possible_yet_is_waited_for_and_one_that_failed_is_tried_once_more_later() -> None:
    later = Power(can_switch=True, refusal="its power was cut 10 s ago")
    assert isinstance(ask(SILENT, later, Tried()), WaitForNetworkBoot)
    assert isinstance(ask(SILENT, replace(PLUG, is_busy=True), Tried()), WaitForNetworkBoot)
    failed = replace(Tried().with_cycle("old", NOW), power_failed="did not answer within 6 s")
    found = ask(SILENT, PLUG, failed, now=NOW + 20)
    assert isinstance(found, AskPerson)
    assert "could not be power-cycled (did not answer within 6 s)" in found.text
    assert isinstance(ask(SILENT, PLUG, failed, now=NOW + PATIENCE_S), PowerCycle)
    again = replace(failed.with_cycle("old", NOW + PATIENCE_S), power_failed="did not answer within 6 s")
    assert isinstance(ask(SILENT, PLUG, again, now=NOW + 3 * PATIENCE_S), AskPerson)


def test_what_was_tried_survives_the_record() -> None:
    tried = Tried().with_reboot(4, "old", NOW).with_cycle("new", NOW + 9)
    assert Tried.from_json(tried.as_json()) == tried
    assert Tried.from_json(None) == Tried()
    assert Tried.from_json({**tried.as_json(), "from a later release": 1}) == tried


@dataclass
class Board:
    """A board as the world has it: what happens to it after each thing that is tried."""

    alive: bool
    reboots_into_old: int
    cycles_into_old: int
    boots: int = 0
    arrived: bool = False
    told: int = 0
    cut: int = 0


@given(
    alive=st.booleans(),
    reboots_into_old=st.integers(0, 9),
    cycles_into_old=st.integers(0, 9),
    hangs=st.lists(st.booleans(), max_size=9),
    can_switch=st.booleans(),
    refuses=st.booleans(),
    restarts=st.sets(st.integers(0, 300), max_size=5),
)
def test_every_board_arrives_or_a_person_is_asked_and_nothing_is_tried_for_ever(
    alive: bool,
    reboots_into_old: int,
    cycles_into_old: int,
    hangs: list[bool],
    can_switch: bool,
    refuses: bool,
    restarts: set[int],
) -> None:
    """Time passes in steps of 10 s; the server is restarted at some, with only the record left."""
    board = Board(alive, reboots_into_old, cycles_into_old)
    tried, now, asked = Tried(), NOW, 0
    heard_at: float | None = NOW if alive else None
    for step in range(400):
        if step in restarts:
            tried = Tried.from_json(tried.as_json())
        if board.alive:
            heard_at = now
        boot = f"boot-{board.boots}"
        found = ask(Agent(heard_at=heard_at, boot_id=boot), Power(can_switch=can_switch), tried, now=now)
        match found:
            case RebootByAgent():
                assert board.alive or (heard_at is not None and now - heard_at <= SMALL_FLEET.silence_s)
                board.told += 1
                tried = tried.with_reboot(board.told, boot, now)
                if refuses:
                    tried = replace(tried, refused="no")
                elif board.alive:
                    _start(board, hangs, board.told > reboots_into_old)
            case PowerCycle():
                board.cut += 1
                tried = tried.with_cycle(boot, now)
                _start(board, hangs, board.cut > cycles_into_old)
            case AskPerson():
                asked += 1
                if asked > 3:
                    break
            case WaitForNetworkBoot():
                pass
        if board.arrived:
            break
        now += 10.0
    assert board.told <= MAX_REBOOTS
    assert board.cut <= (MAX_CYCLES if can_switch else 0)
    assert board.arrived or asked, f"{tried} after {now - NOW:.0f} s"


def _start(board: Board, hangs: list[bool], arrives: bool) -> None:
    board.boots += 1
    board.arrived = arrives
    board.alive = not arrives and not (hangs[board.boots % len(hangs)] if hangs else False)


@pytest.mark.parametrize("way", list(Way))
def test_clock_that_was_set_back_does_not_stop_everything(way: Way) -> None:
    tried = Tried(last=way, at=NOW + 5000.0, boot_id="old")
    found = ask(SILENT, PLUG, tried)
    assert not isinstance(found, WaitForNetworkBoot)


def test_in_a_large_fleet_an_agent_has_longer_to_hear_of_its_order() -> None:
    large = pace_of(10_000)
    tried = Tried().with_reboot(1, "old", NOW)
    for later, expected in ((OVERDUE_S, WaitForNetworkBoot), (165.0, RebootByAgent)):
        slow = Agent(heard_at=NOW + large.steady_s, boot_id="old", pace=large)
        assert slow.is_alive(NOW + later)
        assert isinstance(ask(slow, PLUG, tried, now=NOW + later), expected)
