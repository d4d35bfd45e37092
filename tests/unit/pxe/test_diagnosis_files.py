"""Each problem with files is recognised by what the server sees of it."""

from __future__ import annotations

import pytest
from fakes_diagnosis import CM5, ON_DISK, PI4, PI5, PROFILES, Bench

from pxe.diagnosis.sizes import rollover_block_bytes
from pxe.events import BootFileProbed, ContentRefused, TransferDone, TransferFailed


def fail(bench: Bench, name: str, sent: int, size: int) -> None:
    event = TransferFailed(
        at=bench.now,
        board=bench.board,
        node="one",
        name=name,
        sent_bytes=sent,
        size_bytes=size,
        reason="no answer",
    )
    bench.see(event)


@pytest.mark.parametrize("name", ["labconfig.txt", "bootstart4.elf"])
def test_a_prefix_without_its_slash(name: str) -> None:
    bench = Bench()
    bench.miss(name)
    bench.wait(5)
    assert "missing-slash" in bench.rules


@pytest.mark.parametrize("name", ["config.txt", "old-config.txt", "usercfg.txt", "overlays/config.txt"])
def test_ordinary_names_have_no_prefix(name: str) -> None:
    bench = Bench(profile=PI4)
    bench.miss(name, ON_DISK)
    bench.wait(5)
    assert not bench.rules & {"missing-slash", "other-directory"}


def test_another_directory_than_the_serial() -> None:
    bench = Bench(profile=PI4)
    bench.miss("lab/start4.elf")
    bench.wait(5)
    assert "'lab'" in bench.finding("other-directory").cause


@pytest.mark.parametrize("block", [512, 1024, 1468])
@pytest.mark.parametrize("blocks", [65_535, 65_536])
def test_a_transfer_that_ends_at_the_last_block_number(block: int, blocks: int) -> None:
    bench = Bench()
    fail(bench, "boot.img", blocks * block, 120_000_000)
    bench.wait(5)
    assert bench.rules == {"block-rollover"}
    assert f"blocks of {block} bytes" in bench.finding("block-rollover").cause


@pytest.mark.parametrize("sent", [0, 1, 1468, 65_534 * 1468, 65_537 * 1468, 65_535 * 1468 + 1])
def test_other_ends_are_no_rollover(sent: int) -> None:
    assert rollover_block_bytes(sent) is None


def test_a_file_that_takes_longer_than_the_bootloader_waits() -> None:
    bench = Bench()
    for second in range(30):
        bench.progress("installer.img", second * 700_000, 60_000_000, 1)
    fail(bench, "installer.img", 21_000_000, 60_000_000)
    bench.wait(100)
    finding = bench.finding("file-timeout")
    assert "21.0 MB of 60.0 MB at 700.0 kB/s" in finding.cause
    assert "BOOT_WATCHDOG_TIMEOUT" in finding.mend
    assert bench.rules == {"file-timeout"}


def test_silence_in_the_middle_of_a_file() -> None:
    bench = Bench()
    for second in range(5):
        bench.progress("installer.img", second * 3_000_000, 60_000_000, 1)
    fail(bench, "installer.img", 15_000_000, 60_000_000)
    bench.wait(20)
    assert bench.rules == set()
    bench.wait(60)
    assert bench.rules == {"stopped-midway"}


def test_a_file_that_arrives_at_the_last_moment() -> None:
    bench = Bench()
    bench.read("installer.img", 54_000_000, rate=2_000_000)
    bench.wait(5)
    assert bench.rules == {"nearly-too-slow"}


def test_packets_that_get_lost() -> None:
    bench = Bench()
    bench.read("kernel_2712.img", 9_800_000, again=400)
    bench.wait(5)
    assert bench.rules == {"packet-loss"}


def test_a_few_packets_are_lost_anywhere() -> None:
    bench = Bench()
    bench.read("kernel_2712.img", 9_800_000, again=19)
    bench.wait(5)
    assert bench.rules == set()


def test_full_packets_that_never_arrive() -> None:
    bench = Bench()
    bench.read("config.txt", 900)
    for _ in range(2):
        fail(bench, "kernel_2712.img", 0, 9_800_000)
    bench.wait(5)
    assert bench.rules == {"path-mtu"}


def test_no_device_tree_for_the_board() -> None:
    bench = Bench(profile=CM5)
    bench.take_address()
    bench.read("config.txt", 900)
    bench.miss("bcm2712-rpi-cm5-cm5io.dtb")
    bench.wait(10)
    assert bench.rules == {"device-tree-missing"}
    assert "bcm2712-rpi-cm5-cm5io.dtb" in bench.finding("device-tree-missing").cause


def test_a_pi5_without_config_txt() -> None:
    bench = Bench(profile=PI5)
    bench.take_address()
    bench.miss("config.txt")
    bench.wait(10)
    assert bench.rules == {"config-missing"}


def test_a_pi4_without_config_txt_is_allowed_and_an_installed_pi5_as_well() -> None:
    for profile, reason in ((PI4, None), (PI5, ON_DISK)):
        bench = Bench(profile=profile)
        bench.take_address()
        bench.miss("config.txt", reason) if reason else bench.miss("config.txt")
        bench.wait(10)
        assert bench.rules == set()


def test_a_bootloader_update_that_is_given_out() -> None:
    bench = Bench(profile=PI4)
    bench.read("pieeprom.upd", 524_288)
    bench.wait(5)
    assert bench.rules == {"update-served"}


@pytest.mark.parametrize("with_dhcp", [False, True])
def test_a_board_with_nothing_but_the_network(with_dhcp: bool) -> None:
    bench = Bench(profile=PI4)
    for _ in range(12):
        if with_dhcp:
            bench.take_address()
        bench.miss("start4.elf", ON_DISK)
        bench.miss("start.elf", ON_DISK)
        bench.wait(3)
    assert bench.rules == {"network-only"}


def test_an_initramfs_of_another_kernel() -> None:
    bench = Bench()
    bench.take_address()
    bench.read("kernel_2712.img", 9_800_000)
    bench.read("initramfs8", 9_800_000)
    bench.wait(5)
    assert bench.rules == {"initramfs-mismatch"}


def test_an_installer_that_starts_and_never_arrives() -> None:
    bench = Bench()
    for _ in range(3):
        bench.take_address()
        bench.read_all()
        bench.wait(50)
    assert bench.rules == {"installer-loop"}
    assert len(bench.finding("installer-loop").evidence) == 3


def test_http_boot_that_finds_nothing() -> None:
    bench = Bench()
    event = ContentRefused(
        at=bench.now, board=bench.board, node="one", name="net_install/boot.sig", reason="x"
    )
    bench.see(event)
    bench.wait(5)
    assert bench.rules == {"http-boot-refused"}


def test_a_signature_that_is_not_accepted() -> None:
    bench = Bench()
    for _ in range(2):
        event = TransferDone(
            at=bench.now, board=bench.board, node="one", name="boot.sig", sent_bytes=600, seconds=0.1
        )
        bench.see(event)
    bench.wait(5)
    assert bench.rules == {"signature-not-accepted"}


def test_signed_boot_over_tftp_on_a_cm5() -> None:
    bench = Bench(profile=CM5)
    for _ in range(2):
        bench.take_address()
        bench.read("config.txt", 100)
        bench.read("boot.img", 43_000_000)
        bench.wait(30)
    assert bench.rules == {"signed-over-tftp"}


def test_hostile_names_can_not_fill_the_memory_nor_hide_the_truth() -> None:
    bench = Bench()
    for number in range(1000):
        bench.doctor.observe(_missing(bench, f"x{number}\n"))
    history = bench.doctor.notebook.find(bench.board.key)
    assert history is not None
    assert len(history.current.seen) < 100
    bench.miss("labconfig.txt")
    bench.wait(5)
    assert "missing-slash" in bench.rules


def _missing(bench: Bench, name: str) -> ContentRefused:
    return ContentRefused(at=bench.now, board=bench.board, node=None, name=name, reason="no")


def probe(bench: Bench, name: str, size: int) -> None:
    bench.see(BootFileProbed(at=bench.now, board=bench.board, node="one", name=name, size_bytes=size))


def test_a_file_that_this_bootloader_can_not_count_is_said_before_it_is_read() -> None:
    bench = Bench(profile=PROFILES[0])
    bench.take_address()
    bench.read("start4.elf", 2_300_000)
    probe = BootFileProbed(
        at=bench.now, board=bench.board, node="one", name="boot.img", size_bytes=80_000_000
    )
    bench.see(probe)
    bench.wait(5)
    assert bench.rules == {"too-large"}
    assert "before 2022-10-03" in bench.finding("too-large").cause


def test_a_file_that_will_take_too_long_at_the_measured_rate() -> None:
    bench = Bench()
    bench.take_address()
    bench.read("kernel_2712.img", 9_800_000, rate=900_000)
    probe(bench, "installer.img", 60_000_000)
    bench.wait(5)
    assert bench.rules == {"too-large"}
    assert "needs 67 s at 900.0 kB/s (as measured with this board)" in bench.finding("too-large").cause
