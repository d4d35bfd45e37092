"""An order to restart into the installer: what is set, on which board, and when nothing is restarted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from agent.commands import CommandError, Completed
from agent.errors import AgentError
from agent.protocol import Hardware, RebootOrder
from agent.reboot import BOOT_ARG_SINCE, ONE_SHOT_SINCE, prepare, read_boot_arg
from lab.bootloader.machine import Registers
from lab.bootloader.profile import PI4_2026, PI5_2023, PI5_2025, EepromProfile
from lab.vcmailbox import answer

PI5 = Hardware("10000000abcdef01", "Raspberry Pi 5 Model B", ("2c:cf:67:00:00:01",), 8 << 30, 0xD04170)
CM5 = replace(PI5, revision=0xD04180, model="Raspberry Pi Compute Module 5")
PI4 = replace(PI5, revision=0xD03114, model="Raspberry Pi 4 Model B")
ORDER = RebootOrder(number=3, intent=7, boot_order="0xf62")


@dataclass
class Board:
    """The node's tools over a firmware; `missing` are those that it has not."""

    profile: EepromProfile = PI5_2025
    eeprom: str = "[all]\nBOOT_ORDER=0xf461\n"
    missing: tuple[str, ...] = ()
    registers: Registers = field(default_factory=Registers)
    calls: list[tuple[str, ...]] = field(default_factory=list)
    spoils: str = ""

    def __call__(
        self, argv: Sequence[str], *, input_bytes: bytes = b"", timeout_s: float = 30.0, check: bool = True
    ) -> Completed:
        words = [word for word in argv if not word.startswith("--") and word != "systemd-run"]
        self.calls.append(tuple(words))
        if words[0] in self.missing:
            raise CommandError(argv, "could not start: the program is not installed")
        if words[0] == "rpi-eeprom-config":
            return Completed(tuple(argv), 0, self.eeprom.encode(), "")
        assert words[0] == "vcmailbox"
        assert argv[0] == "systemd-run", "this service does not see the firmware's device"
        said = answer([int(word, 0) for word in words[1:]], self.registers, self.profile)
        text = self.spoils or " ".join(f"0x{word:08x}" for word in said)
        return Completed(tuple(argv), 0, f"{text}\n".encode(), "")


def with_build(root: Path, build: int | None) -> Path:
    if build is not None:
        file = root / "proc/device-tree/chosen/bootloader/build-timestamp"
        file.parent.mkdir(parents=True)
        file.write_bytes(build.to_bytes(4, "big"))
    return root


@pytest.mark.parametrize("hardware", [PI5, CM5], ids=["pi5", "cm5"])
def test_board_of_the_pi_5_family_starts_from_the_network_once_with_its_intent(
    tmp_path: Path, hardware: Hardware
) -> None:
    board = Board()
    prepared = prepare(ORDER, hardware, board, with_build(tmp_path, BOOT_ARG_SINCE))
    assert prepared.one_shot
    assert "intent 7 in boot_arg1" in prepared.text
    assert (board.registers.one_shot_order, board.registers.boot_arg1) == (0xF62, 7)
    assert all(call[0] == "vcmailbox" for call in board.calls)


def test_bootloader_of_before_boot_arg1_gets_the_order_alone(tmp_path: Path) -> None:
    board = Board()
    prepared = prepare(ORDER, PI5, board, with_build(tmp_path, ONE_SHOT_SINCE))
    assert prepared.one_shot
    assert (board.registers.one_shot_order, board.registers.boot_arg1) == (0xF62, 0)


@pytest.mark.parametrize(
    ("hardware", "build", "words"),
    [
        (PI5, ONE_SHOT_SINCE - 1, "older than 2025-01-14"),
        (PI5, None, "does not tell how old"),
        (PI4, BOOT_ARG_SINCE, "has no boot order for one start"),
        (replace(PI5, revision=None), BOOT_ARG_SINCE, "has no boot order for one start"),
    ],
    ids=["old bootloader", "unknown bootloader", "pi4", "no revision"],
)
def test_board_that_can_not_be_told_is_not_restarted_into_its_old_system(
    tmp_path: Path, hardware: Hardware, build: int | None, words: str
) -> None:
    board = Board(profile=PI4_2026)
    with pytest.raises(AgentError, match=words) as caught:
        prepare(ORDER, hardware, board, with_build(tmp_path, build))
    assert "0xf461 does not begin with the network" in caught.value.message
    assert "bramble eeprom apply" in caught.value.hint
    assert [call[0] for call in board.calls] == ["rpi-eeprom-config"]


@pytest.mark.parametrize(
    "eeprom", ["[all]\nBOOT_ORDER=0xf612\n", "BOOT_ORDER = 0xf2\n[none]\nBOOT_ORDER=0xf1\n"]
)
def test_board_with_the_network_first_is_simply_restarted(tmp_path: Path, eeprom: str) -> None:
    prepared = prepare(ORDER, PI4, Board(eeprom=eeprom), tmp_path)
    assert not prepared.one_shot
    assert "from the network first" in prepared.text


def test_eeprom_without_a_boot_order_has_the_firmwares_own(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="0xf41 does not begin"):
        prepare(ORDER, PI4, Board(eeprom="[all]\nBOOT_UART=1\n"), tmp_path)


def test_network_first_for_another_board_does_not_count(tmp_path: Path) -> None:
    eeprom = "[all]\nBOOT_ORDER=0xf41\n[0x12345678]\nBOOT_ORDER=0xf2\n"
    with pytest.raises(AgentError, match="0xf41 does not begin"):
        prepare(ORDER, PI4, Board(eeprom=eeprom), tmp_path)


def test_without_the_tools_the_board_is_restarted_as_it_is(tmp_path: Path) -> None:
    board = Board(missing=("vcmailbox", "rpi-eeprom-config"))
    prepared = prepare(ORDER, PI5, board, with_build(tmp_path, BOOT_ARG_SINCE))
    assert not prepared.one_shot
    assert "boot order is not known" in prepared.text


@pytest.mark.parametrize(
    ("profile", "spoils"),
    [(PI5_2023, ""), (PI5_2025, "garbage"), (PI5_2025, "0x1c 0x80000001 0x3808b 4 0x80000004 0xf62 0x0")],
    ids=["unknown tag", "no words", "refused"],
)
def test_firmware_that_does_not_take_it_is_not_believed(
    tmp_path: Path, profile: EepromProfile, spoils: str
) -> None:
    board = Board(profile=profile, spoils=spoils)
    with pytest.raises(AgentError, match="does not take 0x0003808b"):
        prepare(ORDER, PI5, board, with_build(tmp_path, BOOT_ARG_SINCE))


@pytest.mark.parametrize("order", ["", "0x", "f62", "0xf62; reboot", "0x123456789"])
def test_order_that_is_no_number_reaches_no_tool(tmp_path: Path, order: str) -> None:
    board = Board()
    with pytest.raises(AgentError, match="is no number"):
        prepare(replace(ORDER, boot_order=order), PI5, board, with_build(tmp_path, BOOT_ARG_SINCE))
    assert board.calls == []


@pytest.mark.parametrize(("content", "found"), [(b"\0\0\0\x07", 7), (b"\0\0\0\0", None), (b"\7", None)])
def test_installer_reads_what_the_board_was_started_with(
    tmp_path: Path, content: bytes, found: int | None
) -> None:
    assert read_boot_arg(tmp_path) is None
    file = tmp_path / "proc/device-tree/chosen/bootloader/arg1"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert read_boot_arg(tmp_path) == found
