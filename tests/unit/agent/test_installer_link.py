"""Which interface the installer takes, over drivers that come late and links that come in any order."""

from __future__ import annotations

import pytest

from agent import network
from agent.errors import AgentError
from agent.hardware import Interface
from agent.network import CARRIER_TIMEOUT_S, ONBOARD_HEAD_START_S, choose_interface

ONBOARD = Interface(name="eth0", mac="2c:cf:67:12:34:56", onboard=True, wireless=False, usb=False)
ADAPTER = Interface(name="eth1", mac="00:e0:4c:68:00:01", onboard=False, wireless=False, usb=True)
RADIO = Interface(name="wlan0", mac="2c:cf:67:12:34:57", onboard=False, wireless=True, usb=False)


class Board:
    """Interfaces by the second at which they are there, and links by the one at which they are up."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        there: dict[Interface, float],
        linked: dict[Interface, float],
    ) -> None:
        self.now = 0.0
        self.there, self.linked = there, {one.name: at for one, at in linked.items()}
        self.brought_up: list[str] = []
        monkeypatch.setattr(network, "set_link_up", self._bring_up)

    def choose(self) -> Interface:
        return choose_interface(
            lambda: [one for one, at in self.there.items() if self.now >= at],
            has_carrier=lambda name: name in self.brought_up and self.now >= self.linked.get(name, 1e9),
            clock=lambda: self.now,
            sleep=self._sleep,
        )

    def _bring_up(self, name: str) -> None:
        self.brought_up.append(name)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds


def test_interface_whose_driver_comes_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(monkeypatch, {ONBOARD: 5.0, RADIO: 0.0}, {ONBOARD: 8.0, RADIO: 0.0})
    assert board.choose() == ONBOARD
    assert board.brought_up == ["eth0"], "once, and no radio"


def test_onboard_interface_has_a_head_start_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {ONBOARD: 0.0, ADAPTER: 0.0}
    assert Board(monkeypatch, both, {ONBOARD: ONBOARD_HEAD_START_S - 1, ADAPTER: 0.5}).choose() == ONBOARD
    unplugged = Board(monkeypatch, both, {ADAPTER: 0.5})
    assert unplugged.choose() == ADAPTER
    assert ONBOARD_HEAD_START_S <= unplugged.now < ONBOARD_HEAD_START_S + 1


@pytest.mark.parametrize(
    ("there", "words"), [({ONBOARD: 0.0}, "no link on eth0"), ({RADIO: 0.0}, "shows no wired network")]
)
def test_board_without_a_link_says_which(
    monkeypatch: pytest.MonkeyPatch, there: dict[Interface, float], words: str
) -> None:
    board = Board(monkeypatch, there, {})
    with pytest.raises(AgentError, match=words):
        board.choose()
    assert CARRIER_TIMEOUT_S <= board.now < CARRIER_TIMEOUT_S + 1
