"""Orders for the bootloader's EEPROM, through the agent's service and the lab's rpi-eeprom-config."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from agent_nodes import FakeSystem, Really
from agent_services import make_service, serving
from fakes_agent import ControlServer

from agent.commands import Completed
from agent.protocol import EepromOrder
from lab import eeprom_stand_in

pytestmark = pytest.mark.integration


class NodeWithEeprom(FakeSystem):
    """A node whose rpi-eeprom-config is the lab's stand-in, run as a program; systemd-run runs it here."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        directory.mkdir()

    def instead(self, argv: list[str], really: Really) -> Completed | None:
        if "rpi-eeprom-config" not in argv:
            return None
        arguments = argv[argv.index("rpi-eeprom-config") + 1 :]
        place = f"BRAMBLE_STAND_IN_EEPROM={self.directory}"
        return really(["env", place, sys.executable, eeprom_stand_in.__file__, *arguments])


def test_eeprom_order_is_written_once_and_reported_over_a_restart(
    control: ControlServer, root: Path, tmp_path: Path
) -> None:
    revision = root / "proc/device-tree/system/linux,revision"
    revision.parent.mkdir(parents=True)
    revision.write_bytes((0xD04170).to_bytes(4, "big"))
    system = NodeWithEeprom(tmp_path / "eeprom")
    (system.directory / "bootconf.txt").write_text("[all]\nBOOT_ORDER=0xf41\n")
    control.eeprom = EepromOrder(1, 0x17, {"BOOT_ORDER": "0xf62"})
    with serving(make_service(root, system)):
        control.wait_for(lambda: any(status.problems for status in control.statuses))
    (note,) = next(status.problems for status in control.statuses if status.problems)
    assert note.code == "eeprom_written"
    assert "BOOT_ORDER: 0xf41 -> 0xf62" in note.message
    assert (system.directory / "pending.txt").read_text() == "[all]\nBOOT_ORDER=0xf62\n"
    (system.directory / "pending.txt").unlink()
    seen = len(control.statuses)
    with serving(make_service(root, system)):
        control.wait_for(lambda: len(control.statuses) > seen + 2)
    assert not (system.directory / "pending.txt").exists()
    assert control.eeprom_requests == 1


def test_eeprom_order_for_another_board_is_refused_once(
    control: ControlServer, root: Path, system: FakeSystem
) -> None:
    control.eeprom = EepromOrder(4, 0x11, {"BOOT_ORDER": "0xf12"})
    with serving(make_service(root, system)):
        control.wait_for(lambda: any(status.problems for status in control.statuses))
        seen = len(control.statuses)
        control.wait_for(lambda: len(control.statuses) > seen + 2)
    notes = [problem for status in control.statuses for problem in status.problems]
    assert [note.code for note in notes] == ["eeprom_refused"]
    assert "order 4" in notes[0].message
    assert control.eeprom_requests == 1
