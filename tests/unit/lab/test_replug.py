"""The Pi 4 model's network adapter is plugged in again until its guest has addressed it."""

from __future__ import annotations

from typing import Any

import pytest

from lab.errors import LabError
from lab.replug import PATIENCE_S, Adapter

PROPERTIES = {"driver": "usb-net", "id": "adapter", "mac": "dc:a6:32:01:02:03"}


class Bench:
    """An adapter, the monitor's commands, and a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.adapter = Adapter(PROPERTIES, lambda *command: self.sent.append(command), lambda: self.now)

    def look_after(self, seconds: float) -> list[str]:
        self.now += seconds
        self.sent.clear()
        self.adapter.look()
        return [command for command, _ in self.sent]


def _listed(address: int, name: str = "adapter") -> str:
    return f"  Device 0.{address}, Port 1, Speed 12 Mb/s, Product QEMU USB Network Interface, ID: {name}\r\n"


def test_nothing_is_asked_before_the_guest_had_its_time() -> None:
    bench = Bench()
    assert bench.adapter.wait_s == PATIENCE_S
    assert bench.look_after(PATIENCE_S - 0.1) == []
    assert bench.look_after(0.1) == ["human-monitor-command"]
    assert bench.adapter.wait_s == PATIENCE_S


def test_an_adapter_without_an_address_is_pulled_out_and_plugged_in_again() -> None:
    bench = Bench()
    for _ in range(3):
        assert bench.look_after(PATIENCE_S) == ["human-monitor-command"]
        bench.sent.clear()
        bench.adapter.on_answer(_listed(0))
        assert bench.sent == [("device_del", {"id": "adapter"}), ("device_add", PROPERTIES)]


def test_an_adapter_with_an_address_is_left_alone_for_good() -> None:
    bench = Bench()
    bench.look_after(PATIENCE_S)
    bench.sent.clear()
    bench.adapter.on_answer(_listed(2))
    assert bench.sent == []
    assert bench.adapter.wait_s is None
    assert bench.look_after(10 * PATIENCE_S) == []


def test_answers_to_other_commands_change_nothing() -> None:
    bench = Bench()
    bench.adapter.on_answer({})
    assert bench.sent == []
    assert bench.adapter.wait_s == PATIENCE_S


@pytest.mark.parametrize("answer", ["", "USB support not enabled\r\n", _listed(0, "keyboard")])
def test_an_adapter_that_qemu_does_not_list_is_an_error(answer: str) -> None:
    with pytest.raises(LabError, match="does not list the network adapter"):
        Bench().adapter.on_answer(answer)
