"""What a board says of itself: old bootloaders, identities that do not fit, console messages; and bounds."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest
from fakes_diagnosis import PI4, PI5, Bench, Profile

from fleet.boards import MacAddress, Soc
from pxe.boot.identity import LEGACY_STYLE, BoardIdentity, IdentifiedBy
from pxe.diagnosis.catalogue import RULES
from pxe.diagnosis.engine import Diagnostician
from pxe.diagnosis.era import age_of
from pxe.diagnosis.finding import Finding, Severity
from pxe.diagnosis.history import BOARDS_KEPT
from pxe.diagnosis.scene import Clue, Rule, Scene
from pxe.diagnosis.sizes import check_sizes
from pxe.events import BootFileMissing, ConsoleLine, DhcpDiscover


def rules_of(bench: Bench) -> set[str]:
    bench.take_address()
    bench.wait(5)
    return bench.rules


@pytest.mark.parametrize("name", ["bootcode.bin", "bootsig.bin"])
def test_a_pi3_is_known_by_what_it_asks_for(name: str) -> None:
    bench = Bench()
    bench.board = BoardIdentity(mac=MacAddress.parse("b8:27:eb:00:00:01"), is_pi=True, how=IdentifiedBy.MAC)
    bench.miss(name)
    bench.wait(5)
    assert bench.rules == {"pi3"}


def test_a_pi3_is_known_by_its_address() -> None:
    bench = Bench()
    bench.board = BoardIdentity(mac=MacAddress.parse("b8:27:eb:00:00:01"), is_pi=True, how=IdentifiedBy.MAC)
    assert rules_of(bench) == {"pi3"}


def test_a_bootloader_without_option_97() -> None:
    bench = Bench()
    bench.board = BoardIdentity(mac=MacAddress.parse("dc:a6:32:00:00:01"), is_pi=True, how=IdentifiedBy.MAC)
    assert rules_of(bench) == {"strange-option-97"}


def test_a_fourcc_of_the_users_own() -> None:
    bench = Bench()
    bench.board = replace(bench.board, eeprom_style="LAB1")
    assert rules_of(bench) == {"strange-option-97"}
    assert "DHCP_OPTION97" in bench.finding("strange-option-97").cause


def test_the_serial_four_times() -> None:
    bench = Bench(profile=Profile(name="pi4-2019", revision=0xA03111, style=LEGACY_STYLE, files=()))
    assert rules_of(bench) == {"legacy-identity"}


@pytest.mark.parametrize("style", ["RPi4", "4iPR"])
def test_a_pi5_that_calls_itself_a_pi4(style: str) -> None:
    bench = Bench()
    bench.board = replace(bench.board, eeprom_style=style)
    assert rules_of(bench) == {"early-pi5"}


def test_a_pi4_of_revision_1_1_with_an_old_bootloader() -> None:
    bench = Bench(profile=PI4)
    bench.profile = Profile(name="old", revision=0xA03111, style="RPi4", files=(), blksize=1024)
    bench.board = bench.profile.board
    assert rules_of(bench) == set()  # its age is not known
    bench.read("config.txt", 900)
    bench.wait(5)
    assert bench.rules == set()  # start4.elf may have read that
    bench.read("start4.elf", 2_300_000)
    bench.wait(5)
    assert bench.rules == {"sleeping-phy"}


def test_one_address_and_two_serials() -> None:
    bench = Bench()
    bench.take_address()
    bench.board = replace(bench.board, serial_low=0x12345678)
    bench.miss("config.txt", "it is held")
    bench.wait(5)
    assert "two-serials" in bench.rules
    assert "…91cdf03d and …12345678" in bench.finding("two-serials").cause


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Read boot.img failed", "Signed boot"),
        ("Error 12", "Signed boot"),
        ("NETBOOT init failed", "spanning tree"),
        ("BAD OACK", "report"),
        ("File is too large. Max size 100663296", "boot.img smaller"),
        ("Unsupported boot order 7", "2025-05-08"),
    ],
)
def test_the_console_says_it_itself(line: str, words: str) -> None:
    bench = Bench()
    bench.see(ConsoleLine(at=bench.now, board=bench.board, node=None, line=line))
    bench.wait(5)
    assert words in bench.finding("console-message").mend


def test_ordinary_console_lines_say_nothing() -> None:
    bench = Bench()
    for line in ("Boot mode: NETWORK (02) order f1", "TFTP 1: File not found", "Link ready"):
        bench.see(ConsoleLine(at=bench.now, board=bench.board, node=None, line=line))
    bench.wait(5)
    assert bench.rules == set()


@pytest.mark.parametrize(
    ("style", "blksize", "words"),
    [
        (LEGACY_STYLE, None, "before 2020-03-11"),
        ("RPi4", 1024, "before 2022-10-03"),
        ("4iPR", 1468, "2022-10-03 or later"),
        ("4iPR", None, "2020-03-11 or later"),
        ("", None, "of unknown age"),
    ],
)
def test_the_age_of_a_pi4_bootloader(style: str, blksize: int | None, words: str) -> None:
    board = BoardIdentity(family=Soc.BCM2711, eeprom_style=style, is_pi=True)
    assert age_of(board, blksize).describe() == words


def test_a_pi5_says_little_about_its_age() -> None:
    age = age_of(PI5.board, 1468)
    assert age.since == date(2023, 10, 30)
    assert age.may_be_before(date(2025, 9, 23))


@pytest.mark.parametrize(
    ("soc", "size", "words"),
    [
        (Soc.BCM2711, 70_000_000, "older than 2022-10-03 stops after 67.1 MB"),
        (Soc.BCM2712, 96_205_380, "older than 2025-09-23 stops after 96.2 MB"),
        (Soc.BCM2711, 60_000_000, "needs 35 s at 1.7 MB/s"),
    ],
)
def test_files_that_are_too_large_for_some_bootloader(soc: Soc, size: int, words: str) -> None:
    assert any(words in warning.text for warning in check_sizes([("big.img", size)], soc))


def test_sizes_that_every_bootloader_takes() -> None:
    assert check_sizes([("installer.img", 50_000_000), ("start4.elf", 0)], Soc.BCM2711) == []
    assert check_sizes([("installer.img", 96_205_379)], Soc.BCM2712, rate=11e6) == []


def test_an_observed_bootloader_makes_the_warning_certain() -> None:
    age = age_of(PI4.board, 1024)
    (warning,) = check_sizes([("big.img", 70_000_000)], Soc.BCM2711, age, rate=11e6)
    assert warning.certain
    assert check_sizes([("big.img", 70_000_000)], Soc.BCM2711, age_of(PI4.board, 1468), rate=11e6) == []


def test_a_boot_img_beyond_its_limit() -> None:
    texts = [warning.text for warning in check_sizes([("boot.img", 100_000_000)], Soc.BCM2712, rate=11e6)]
    assert any("bootloaders take 96.0 MB for sure" in text for text in texts)


def test_invented_boards_can_not_fill_the_memory() -> None:
    bench = Bench()
    for number in range(BOARDS_KEPT + 500):
        board = BoardIdentity(serial_low=number + 1, is_pi=True)
        bench.doctor.observe(DhcpDiscover(at=bench.now, board=board, node=None))
    assert len(bench.doctor.notebook) == BOARDS_KEPT
    bench.doctor.tick(bench.now + 10)


def test_a_board_that_first_shows_its_address_and_then_its_serial_is_one() -> None:
    bench = Bench()
    by_mac = BoardIdentity(mac=bench.board.mac)
    bench.doctor.observe(DhcpDiscover(at=bench.now, board=by_mac, node=None))
    bench.doctor.observe(
        BootFileMissing(at=bench.now, board=bench.board, node=None, name="a", reason=bench.profile.name)
    )
    notebook = bench.doctor.notebook
    assert len(notebook) == 1
    assert notebook.find(str(bench.board.mac)) is notebook.find(bench.board.key)


def test_a_thousand_boards_are_looked_at_in_turn() -> None:
    seen: list[str] = []

    def note(scene: Scene) -> Clue | None:
        seen.append(scene.history.board.key)
        return None

    doctor = Diagnostician(Bench().doctor.setting, [Rule("note", Severity.INFO, "t", note)])
    for number in range(1000):
        doctor.observe(DhcpDiscover(at=0.0, board=BoardIdentity(serial_low=number + 1), node=None))
    for second in range(4, 24):
        before = len(seen)
        doctor.tick(float(second))
        assert len(seen) - before <= 64
    assert len(set(seen)) == 1000


def test_every_rule_has_a_name_of_its_own_and_a_title() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)
    assert len(RULES) >= 28
    assert all(rule.id == rule.id.lower() and " " not in rule.id and rule.title for rule in RULES)


def test_a_finding_needs_evidence() -> None:
    with pytest.raises(ValueError, match="guess"):
        Finding(rule="x", severity=Severity.INFO, cause="c", mend="m", evidence=())
