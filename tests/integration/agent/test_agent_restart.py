"""The agent restarts its board into the installer: the service, the lab's vcmailbox, the lab's firmware."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from agent_nodes import FakeSystem, Really
from agent_services import make_service, serving
from fakes_agent import ControlServer
from fakes_boot_server import ModelServer, run_boot

from agent.commands import Completed
from agent.protocol import RebootOrder
from fleet.boards import BoardModel, DiskKind, MacAddress, Serial
from lab import vcmailbox_stand_in
from lab.bootloader.files import BootFiles
from lab.bootloader.machine import Bootrom, Hardware
from lab.bootloader.profile import PI5_2025, BoardIdentity
from lab.registers import clear_registers, read_registers, write_registers

pytestmark = pytest.mark.integration

BUILD = 1746662400  # 2025-05-08
TREE = {
    "config.txt": b"kernel=kernel8.img\n",
    "kernel8.img": b"kernel",
    "cmdline.txt": b"quiet",
    "bcm2712-rpi-5-b.dtb": b"dtb",
}


class OnDisk:
    """A disk that boots: its files, in one partition."""

    def partitions(self) -> Sequence[int]:
        return (1,)

    def read(self, partition: int, name: str) -> bytes | None:
        return TREE.get(name)


class NodeWithMailbox(FakeSystem):
    """A node whose vcmailbox is the lab's stand-in, run as a program; systemd-run runs it here."""

    def __init__(self, registers: Path) -> None:
        super().__init__()
        self.registers = registers

    def instead(self, argv: list[str], really: Really) -> Completed | None:
        if "vcmailbox" not in argv:
            return None
        arguments = argv[argv.index("vcmailbox") + 1 :]
        places = (f"BRAMBLE_STAND_IN_REGISTERS={self.registers}", f"PYTHONPATH={':'.join(sys.path)}")
        return really(["env", *places, sys.executable, vcmailbox_stand_in.__file__, *arguments])

    @property
    def restarts(self) -> int:
        return self.calls.count(("systemctl", "reboot"))


@pytest.fixture
def root(root: Path) -> Path:
    tree = root / "proc/device-tree"
    for name, value in {
        "system/linux,revision": (0xD04170).to_bytes(4, "big"),
        "chosen/bootloader/build-timestamp": BUILD.to_bytes(4, "big"),
    }.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(value)
    return root


def start(registers_file: Path) -> tuple[str, int]:
    """The board starts: from where, and with which boot_arg1. Its own boot order has the disk first."""
    board = BoardIdentity(
        model=BoardModel.PI5,
        serial=Serial.parse("10000000d03114aa"),
        mac=MacAddress.parse("2c:cf:67:12:34:56"),
        revision=0xD04170,
    )
    hardware = Hardware(board=board, profile=PI5_2025, disks={DiskKind.NVME: OnDisk()})
    registers = read_registers(registers_file)
    argument = registers.boot_arg1
    rom = Bootrom(hardware, random_bits=lambda bits: 7 % (1 << bits), now=0.0, registers=registers)
    write_registers(registers_file, registers)
    run_boot(rom, ModelServer(TREE))
    assert isinstance(rom.outcome, BootFiles)
    return rom.outcome.source.name, argument


def test_order_starts_the_board_from_the_network_once_with_its_intent_and_never_by_itself_again(
    control: ControlServer, root: Path, tmp_path: Path
) -> None:
    registers = tmp_path / "registers.json"
    assert start(registers) == ("NVME", 0)
    system = NodeWithMailbox(registers)
    control.reboot = RebootOrder(number=5, intent=7, boot_order="0xf62")
    with serving(make_service(root, system)):
        control.wait_for(lambda: system.restarts == 1)
    notes = [problem for status in control.statuses for problem in status.problems]
    assert [note.code for note in notes] == ["reboot_begins"], "it is told before the board restarts"
    assert "intent 7 in boot_arg1" in notes[0].message

    assert start(registers) == ("NETWORK", 7)
    assert start(registers) == ("NVME", 7), "the order was for one start"
    # The old system is up again: the order that it carried out once is not carried out again.
    seen = len(control.statuses)
    with serving(make_service(root, system)):
        control.wait_for(lambda: len(control.statuses) > seen + 2)
    assert system.restarts == 1
    # A newer one is.
    control.reboot = RebootOrder(number=6, intent=7, boot_order="0xf62")
    with serving(make_service(root, system)):
        control.wait_for(lambda: system.restarts == 2)
    clear_registers(registers)  # power is lost between the order and the start
    assert start(registers) == ("NVME", 0)


def test_board_that_can_not_is_not_restarted_and_says_why(
    control: ControlServer, root: Path, tmp_path: Path
) -> None:
    (root / "proc/device-tree/system/linux,revision").write_bytes((0xD03114).to_bytes(4, "big"))

    class Pi4(NodeWithMailbox):
        def instead(self, argv: list[str], really: Really) -> Completed | None:
            if argv == ["rpi-eeprom-config"]:
                return Completed(tuple(argv), 0, b"[all]\nBOOT_ORDER=0xf41\n", "")
            return super().instead(argv, really)

    system = Pi4(tmp_path / "registers.json")
    control.reboot = RebootOrder(number=5, intent=7, boot_order="0xf12")
    with serving(make_service(root, system)):
        control.wait_for(lambda: any(status.problems for status in control.statuses))
        seen = len(control.statuses)
        control.wait_for(lambda: len(control.statuses) > seen + 2)
    notes = [problem for status in control.statuses for problem in status.problems]
    assert [note.code for note in notes] == ["reboot_refused"]
    assert notes[0].message.startswith("order 5: its boot order 0xf41 does not begin with the network")
    assert "bramble eeprom apply" in notes[0].hint
    assert system.restarts == 0


def test_order_that_is_withdrawn_when_its_beginning_is_told_restarts_nothing(
    control: ControlServer, root: Path, tmp_path: Path
) -> None:
    class Withdrawn(NodeWithMailbox):
        """The server stops wanting the board on the network while the agent prepares it."""

        withdraws = True

        def instead(self, argv: list[str], really: Really) -> Completed | None:
            if self.withdraws and "vcmailbox" in argv:
                control.reboot = None
            return super().instead(argv, really)

    system = Withdrawn(tmp_path / "registers.json")
    control.reboot = RebootOrder(number=5, intent=7, boot_order="0xf62")

    def told() -> list[str]:
        return [problem.code for status in control.statuses for problem in status.problems]

    with serving(make_service(root, system)):
        control.wait_for(lambda: "reboot_withdrawn" in told())
        assert system.restarts == 0
        # One that is given after it is carried out.
        system.withdraws = False
        control.reboot = RebootOrder(number=6, intent=8, boot_order="0xf62")
        control.wait_for(lambda: system.restarts == 1)
    assert told() == ["reboot_begins", "reboot_withdrawn", "reboot_begins"]


def test_node_whose_disk_takes_nothing_any_more_is_restarted_all_the_same(
    control: ControlServer, root: Path, tmp_path: Path
) -> None:
    """It is what it is to be installed anew for."""
    system = NodeWithMailbox(tmp_path / "registers.json")
    (root / "var/lib/bramble/state.json.bramble-new").mkdir(parents=True)
    control.reboot = RebootOrder(number=5, intent=7, boot_order="0xf62")
    with serving(make_service(root, system)):
        control.wait_for(lambda: system.restarts == 1)
        seen = len(control.statuses)
        control.wait_for(lambda: len(control.statuses) > seen + 2)
    assert system.restarts == 1
    told = {problem.code for status in control.statuses for problem in status.problems}
    assert told == {"desired", "state_not_saved", "reboot_begins"}
