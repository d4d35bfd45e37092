"""An order for the EEPROM: merged, written once, and refused whole where anything is not as it should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.commands import CommandError, Completed
from agent.eeprom import carry_out, merge_config
from agent.errors import AgentError
from agent.protocol import EepromOrder, Hardware

PI5 = Hardware(
    "10000000abcdef01", "Raspberry Pi 5 Model B Rev 1.0", ("2c:cf:67:00:00:01",), 8 << 30, 0xD04170
)
ORDER = EepromOrder(3, 0x17, {"BOOT_ORDER": "0xf62", "MAX_RESTARTS": "-1"})


@dataclass
class Tool:
    """rpi-eeprom-config and systemd-run; what was applied."""

    text: str = "[all]\nBOOT_UART=1\nBOOT_ORDER=0xf41\n"
    fault: CommandError | None = None
    apply_fault: CommandError | None = None
    applied: list[str] = field(default_factory=list)

    def __call__(
        self, argv: Sequence[str], *, input_bytes: bytes = b"", timeout_s: float = 30.0, check: bool = True
    ) -> Completed:
        if list(argv) == ["rpi-eeprom-config"]:
            if self.fault is not None:
                raise self.fault
            return Completed(tuple(argv), 0, self.text.encode(), "")
        assert list(argv[:-1])[-2:] == ["rpi-eeprom-config", "--apply"]
        assert argv[0] == "systemd-run"
        if self.apply_fault is not None:
            raise self.apply_fault
        self.applied.append(Path(argv[-1]).read_text())
        return Completed(tuple(argv), 0, b"", "")


def test_the_order_is_merged_and_written_and_its_file_is_gone(tmp_path: Path) -> None:
    tool = Tool()
    written = carry_out(ORDER, PI5, tool, tmp_path)
    assert tool.applied == ["[all]\nBOOT_UART=1\nBOOT_ORDER=0xf62\nMAX_RESTARTS=-1\n"]
    assert written.changes == ("BOOT_ORDER: 0xf41 -> 0xf62", "MAX_RESTARTS: not set -> -1")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_where_all_of_it_stands_there(tmp_path: Path) -> None:
    tool = Tool("[all]\nMAX_RESTARTS=-1\nBOOT_ORDER=0xf62\n")
    assert carry_out(ORDER, PI5, tool, tmp_path).changes == ()
    assert tool.applied == []


@pytest.mark.parametrize(
    ("tool", "order", "hardware", "words"),
    [
        pytest.param(
            Tool(), EepromOrder(1, 0x11, {"A": "1"}), PI5, "for boards of type 0x11", id="another model"
        ),
        pytest.param(Tool(), ORDER, Hardware("1", "?", (), 1), "says no model", id="no model"),
        pytest.param(
            Tool(fault=CommandError(["rpi-eeprom-config"], "could not start")),
            ORDER,
            PI5,
            "not touched",
            id="no tool",
        ),
        pytest.param(
            Tool(fault=CommandError(["rpi-eeprom-config"], "ended", returncode=1)),
            ORDER,
            PI5,
            "ended",
            id="tool fails",
        ),
        pytest.param(
            Tool(apply_fault=CommandError(["x"], "ended", returncode=1)),
            ORDER,
            PI5,
            "ended",
            id="write fails",
        ),
        pytest.param(Tool("#" * 2020), ORDER, PI5, "takes 2024 bytes", id="too large"),
        pytest.param(
            Tool(),
            EepromOrder(1, 0x17, {"A": "1\nBOOT_ORDER=0x0"}),
            PI5,
            "not one line",
            id="two lines in one",
        ),
        pytest.param(
            Tool(), EepromOrder(1, 0x17, {"A\nB": "1"}), PI5, "not one line", id="a key of two lines"
        ),
    ],
)
def test_what_is_refused_changes_nothing(
    tmp_path: Path, tool: Tool, order: EepromOrder, hardware: Hardware, words: str
) -> None:
    with pytest.raises(AgentError, match=words):
        carry_out(order, hardware, tool, tmp_path)
    assert tool.applied == []
    assert list(tmp_path.iterdir()) == []


def test_merging_keeps_what_stands_there() -> None:
    text = "# mine\n[all]\nBOOT_UART=1\nBOOT_ORDER=0x1\nBOOT_ORDER=0x4\n\n[pi4]\nBOOT_ORDER=0x1\n"
    merged = merge_config(text, {"BOOT_ORDER": "0xf62", "DHCP_TIMEOUT": "45000"})
    assert merged == (
        "# mine\n[all]\nBOOT_UART=1\nBOOT_ORDER=0xf62\nDHCP_TIMEOUT=45000\n\n[pi4]\nBOOT_ORDER=0x1\n"
    )


def test_merging_into_nothing_and_before_a_foreign_section() -> None:
    assert merge_config("", {"A": "1"}) == "[all]\nA=1\n"
    assert merge_config("[pi4]\nB=2\n", {"A": "1"}) == "[all]\nA=1\n\n[pi4]\nB=2\n"


@given(st.text(max_size=300))
def test_merging_twice_changes_nothing_more(text: str) -> None:
    settings = {"BOOT_ORDER": "0xf62", "MAX_RESTARTS": "-1"}
    once = merge_config(text, settings)
    assert merge_config(once, settings) == once
    assert "BOOT_ORDER=0xf62" in once.splitlines()
