"""The hand-off gate: one install for one intent, whatever the order of power cuts, retries and restarts.

A stateful test over the real decision and routes, with the emulated bootloader as the board: it powers on by
TFTP or HTTP, is cut at any frame, installs, dies in the middle of it, loses the answer to its last word.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from fakes_boot_room import MAC, SERIAL, MemoryDisk, RoomServer, answers, make_tree, power_on
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fleet.boards import MacAddress
from pxe.boot.decision import Hold, Install, LocalDisk
from pxe.boot.table import BootTable, NodeBootState

NETWORK_FIRST, HTTP_FIRST, BOTH_FIRST = 0xE62, 0xE67, 0xE627
ORDERS = st.sampled_from([NETWORK_FIRST, HTTP_FIRST, BOTH_FIRST])
TTL_S = 3600.0


@dataclass
class Ledger:
    """What the fleet's store keeps of one node: the open intent, and which intents were used up."""

    number: int = 1
    is_open: bool = True
    expires: float = TTL_S
    installed: list[int] = field(default_factory=list)

    def table(self) -> BootTable:
        """The snapshot that the boot server gets."""
        node = NodeBootState(
            name="pi5-1",
            mac=MAC,
            serial=SERIAL,
            install_intent=self.number if self.is_open else None,
            intent_expires=self.expires if self.is_open else None,
            reason="installed" if self.installed else "",
            tree=make_tree(self.number),
        )
        return BootTable(nodes=(node,))

    def complete(self, intent: int) -> bool:
        """The installer's last word; only the open intent takes it, once."""
        if not self.is_open or intent != self.number:
            return intent in self.installed
        self.is_open = False
        self.installed.append(intent)
        return True

    def rearm(self, now: float) -> None:
        self.number += 1
        self.is_open = True
        self.expires = now + TTL_S


class HandOff(RuleBasedStateMachine):
    """One board, one server."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.ledger = Ledger()
        self.disk = MemoryDisk()
        self.writes: list[int] = []
        self.snapshot = self.ledger.table()
        self.server = RoomServer(lambda: self.snapshot, lambda: self.now)

    def _power_on(self, order: int, frames: int | None) -> str | None:
        """The command line that was started; None where nothing was."""
        if not self.disk.installed and not self._may_install:
            return None  # nothing to boot: the order ends, a person has to come
        files = power_on(self.server, self.disk, order, cut_after_frames=frames)
        return files.cmdline if files is not None else None

    @property
    def _may_install(self) -> bool:
        return all(isinstance(answer, Install) for answer in answers(self.snapshot, self.now))

    def _write_disk(self, cmdline: str) -> int:
        """What the installer does up to its commit: the disk is blank first, whole at the end."""
        intent = int(cmdline.removeprefix("bramble.intent="))
        assert self.ledger.is_open, "an installer runs and no install is open"
        assert intent == self.ledger.number
        self.disk.installed = ""
        return intent

    def _refresh(self) -> None:
        self.snapshot = self.ledger.table()

    @rule(order=ORDERS, frames=st.integers(0, 120))
    def power_cut_while_booting(self, order: int, frames: int) -> None:
        cmdline = self._power_on(order, frames)
        if cmdline is not None and cmdline.startswith("bramble"):
            self._write_disk(cmdline)  # it got as far as its installer, and power failed there

    @rule(order=ORDERS)
    def power_cut_while_installing(self, order: int) -> None:
        cmdline = self._power_on(order, None)
        if cmdline is not None and cmdline.startswith("bramble"):
            self._write_disk(cmdline)

    @rule(order=ORDERS, is_heard=st.booleans())
    def boot_to_the_end(self, order: int, is_heard: bool) -> None:
        """An install that ends; its last word may be heard while its answer is lost with the power."""
        may_install = self._may_install
        cmdline = self._power_on(order, None)
        if cmdline is None:
            return
        if not cmdline.startswith("bramble"):
            assert not may_install
            assert cmdline == self.disk.installed
            return
        assert may_install
        intent = self._write_disk(cmdline)
        assert self.ledger.complete(intent)
        self.writes.append(intent)
        self.disk.installed = f"installed by {intent}"
        self._refresh()
        if not is_heard:
            assert self.ledger.complete(intent)  # it asks again after the power came back: the same answer

    @rule()
    def server_restarts(self) -> None:
        self._refresh()
        self.server = RoomServer(lambda: self.snapshot, lambda: self.now)

    @rule(seconds=st.sampled_from([1.0, 60.0, TTL_S]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: not self.ledger.is_open or self.now >= self.ledger.expires)
    @rule()
    def a_person_arms_it_again(self) -> None:
        self.ledger.rearm(self.now)
        self._refresh()

    @invariant()
    def no_intent_installs_twice(self) -> None:
        assert len(self.writes) == len(set(self.writes))
        assert self.writes == self.ledger.installed

    @invariant()
    def all_services_say_the_same(self) -> None:
        said = answers(self.snapshot, self.now)
        assert len({type(answer) for answer in said}) == 1
        if not self.ledger.is_open:
            assert all(isinstance(answer, LocalDisk) for answer in said)
            for name in ("config.txt", "boot.sig", "boot.img", "kernel8.img", "cmdline.txt"):
                assert self.server.find_file(f"{SERIAL.prefix}/{name}") is None
                assert self.server.find_file(f"{SERIAL.prefix}//{name}") is None
                assert self.server.find_page(f"/boot/{SERIAL.prefix}/{name}") is None


HandOff.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestHandOff = HandOff.TestCase


@pytest.mark.parametrize("order", [NETWORK_FIRST, HTTP_FIRST, BOTH_FIRST], ids=["tftp", "http", "both"])
def test_five_power_cycles_after_an_install_boot_the_disk_and_one_order_installs_once(order: int) -> None:
    ledger, disk = Ledger(), MemoryDisk()
    server = RoomServer(ledger.table, lambda: 0.0)

    def install() -> int:
        files = power_on(server, disk, order)
        assert files is not None
        intent = int(files.cmdline.removeprefix("bramble.intent="))
        assert ledger.complete(intent)
        disk.installed = f"installed by {intent}"
        return intent

    assert install() == 1
    for _ in range(5):
        files = power_on(server, disk, order)
        assert files is not None
        assert (files.kernel, files.cmdline) == (b"installed kernel", "installed by 1")
    ledger.rearm(0.0)
    assert install() == 2
    for _ in range(5):
        files = power_on(server, disk, order)
        assert files is not None
        assert files.cmdline == "installed by 2"
    assert ledger.installed == [1, 2]


@pytest.mark.parametrize("frames", range(0, 45, 3))
@pytest.mark.parametrize("order", [NETWORK_FIRST, HTTP_FIRST], ids=["tftp", "http"])
def test_a_cut_at_any_frame_leaves_the_intent_open_for_another_try(order: int, frames: int) -> None:
    ledger, disk = Ledger(), MemoryDisk()
    server = RoomServer(ledger.table, lambda: 0.0)
    assert power_on(server, disk, order, cut_after_frames=frames) is None
    files = power_on(server, disk, order)
    assert files is not None
    assert files.cmdline == "bramble.intent=1"


def test_a_board_with_the_serial_and_another_mac_address_is_held_by_all_services() -> None:
    (node,) = Ledger().table().nodes
    declared = replace(node, mac=MacAddress.parse("2c:cf:67:00:00:99"))
    table = BootTable(nodes=(declared,))
    assert all(isinstance(answer, Hold) for answer in answers(table, 0.0))
    server = RoomServer(lambda: table, lambda: 0.0)
    assert server.find_file(f"{SERIAL.prefix}/config.txt") is None
    assert server.find_page(f"/boot/{SERIAL.prefix}/boot.img") is None


def test_an_image_of_an_earlier_intent_is_never_what_a_later_one_boots() -> None:
    ledger, disk = Ledger(), MemoryDisk()
    server = RoomServer(ledger.table, lambda: 0.0)
    ledger.complete(1)
    ledger.rearm(0.0)
    for order in (NETWORK_FIRST, HTTP_FIRST):
        files = power_on(server, disk, order)
        assert files is not None
        assert files.cmdline == "bramble.intent=2"


@pytest.mark.parametrize("frames", range(46))
@pytest.mark.parametrize("order", [NETWORK_FIRST, HTTP_FIRST], ids=["tftp", "http"])
def test_a_transfer_that_a_power_cut_left_behind_gives_nothing_to_the_next_intent(
    order: int, frames: int
) -> None:
    """The board asks from the same ports after every start; cut at frame 37 it leaves one of cmdline.txt."""
    ledger, disk = Ledger(), MemoryDisk()
    server = RoomServer(ledger.table, lambda: 0.0)
    assert power_on(server, disk, order, cut_after_frames=frames) is None
    ledger.rearm(0.0)
    files = power_on(server, disk, order)
    assert files is not None
    assert files.cmdline == "bramble.intent=2"
