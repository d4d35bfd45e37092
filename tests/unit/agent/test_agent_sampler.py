"""What the agent reads of boards that were recorded, and how often it reads what costs something."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_nodes import FakeSystem, Really, make_node_root
from hypothesis import given
from hypothesis import strategies as st
from recorded_boards import make_board_root

from agent.commands import Completed
from agent.k3s_probes import K3sProbes, parse_fsync_buckets, quantile_between
from agent.kernel_log import LogCounts, count_records
from agent.nvme import encode_get_smart_log
from agent.sampler import MINUTE_S, SMART_DELAY_S, SMART_INTERVAL_S, Sampler, parse_oom_kills, parse_smart
from agent.storage import (
    WriteTotals,
    find_read_only,
    parse_pre_eol,
    parse_smart_log,
    parse_write_totals,
    write_latency_ms,
)

SMART = (
    '{"nvme0": {"critical_warning": 4, "wear_percent": 91, "spare_percent": 7, "media_errors": 2, "more": 1}}'
)


class Probes(K3sProbes):
    """Answers without a network."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def kubelet_healthy(self) -> bool | None:
        self.asked.append("kubelet")
        return True

    def etcd_fsync_p99_s(self) -> float | None:
        self.asked.append("etcd")
        return 0.012


class System(FakeSystem):
    """Its SMART helper and vcgencmd answer."""

    def instead(self, argv: list[str], really: Really) -> Completed | None:
        answers = {"systemd-run": SMART, "vcgencmd": "throttled=0x80008\n"}
        return Completed(tuple(argv), 0, answers[argv[0]].encode(), "") if argv[0] in answers else None


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_pi5_with_a_weak_supply(tmp_path: Path) -> None:
    root = make_board_root("pi5_under_voltage", tmp_path)
    health = Sampler(root, System(), probes=Probes()).sample()
    assert health.throttled == 0x50005
    assert health.under_voltage is True
    assert health.temperature_c == 71.25
    assert (health.fan_rpm, health.fan_duty) == (3120, 125)
    assert health.oom_kills == 2
    assert health.kernel_taint == 4096
    assert health.read_only_mounts == ()  # read-only for the agent alone
    assert (health.io_errors, health.filesystem_errors) == (0, 0)
    assert health.firmware is not None
    assert health.firmware.version == "1a2b3c4d5e6f00112233445566778899aabbccdd"
    assert (health.firmware.partition, health.firmware.tryboot, health.firmware.boot_count) == (1, False, 3)
    assert [(disk.name, disk.kind, disk.link) for disk in health.disks] == [
        ("nvme0n1", "nvme", "5.0 GT/s x1")
    ]
    assert health.pressure_some_avg10 == {"cpu": 3.1, "io": 1.2, "memory": 0.0}
    assert health.agent_rss_bytes is not None


def test_cm4_whose_storage_ends(tmp_path: Path) -> None:
    root = make_board_root("cm4_worn_emmc", tmp_path)
    health = Sampler(root, System(), probes=Probes()).sample()
    assert health.read_only_mounts == ("/",)
    assert health.io_errors == 2  # not of a loop device, and not what a program wrote
    assert health.filesystem_errors == 8
    assert (health.disks[0].wear_percent, health.disks[0].pre_eol) == (110, 3)
    assert health.storage_wear_percent == 110
    assert health.under_voltage is None
    assert health.firmware is None


def test_filesystem_that_becomes_read_only_is_in_the_next_sample(tmp_path: Path) -> None:
    root, clock = make_board_root("pi5_under_voltage", tmp_path), Clock()
    sampler = Sampler(root, System(), monotonic=clock, probes=Probes())
    assert sampler.sample().read_only_mounts == ()
    clock.now += 1
    worn = make_board_root("cm4_worn_emmc", tmp_path / "worn")
    (root / "proc/self/mountinfo").write_bytes((worn / "proc/self/mountinfo").read_bytes())
    assert sampler.sample().read_only_mounts == (), "read once a minute while the kernel has no complaint"
    with (root / "dev/kmsg").open("a") as log:
        log.write("2,101,6000000,-;EXT4-fs (nvme0n1p2): Remounting filesystem read-only\n")
    clock.now += 1
    health = sampler.sample()
    assert (health.read_only_mounts, health.filesystem_errors) == (("/",), 1)


def test_node_without_any_of_it_is_read_all_the_same(tmp_path: Path) -> None:
    health = Sampler(make_node_root(tmp_path), FakeSystem()).sample()
    assert (health.throttled, health.under_voltage, health.fan_rpm, health.io_errors) == (None,) * 4
    assert health.disks == ()
    assert health.certificates == {}


def test_smart_is_asked_for_after_the_start_and_then_rarely(tmp_path: Path) -> None:
    root, system, clock = make_board_root("pi5_under_voltage", tmp_path), System(), Clock()
    sampler = Sampler(root, system, monotonic=clock, probes=Probes())
    assert sampler.sample().disks[0].wear_percent is None
    assert system.calls == []
    clock.now += SMART_DELAY_S
    disk = sampler.sample().disks[0]
    assert (disk.wear_percent, disk.critical_warning, disk.spare_percent, disk.media_errors) == (91, 4, 7, 2)
    assert system.calls[0][:4] == ("systemd-run", "--quiet", "--wait", "--pipe")
    for _ in range(10):
        clock.now += MINUTE_S
        assert sampler.sample().disks[0].wear_percent == 91
    assert len(system.calls) == 1
    clock.now += SMART_INTERVAL_S
    sampler.sample()
    assert len(system.calls) == 2


def test_k3s_is_probed_once_a_minute_and_only_while_it_runs(tmp_path: Path) -> None:
    probes, clock = Probes(), Clock()
    sampler = Sampler(make_node_root(tmp_path), FakeSystem(), monotonic=clock, probes=probes)
    assert sampler.sample(k3s_runs=False, is_server=True).kubelet_healthy is None
    assert probes.asked == []
    for _ in range(12):
        clock.now += MINUTE_S / 6
        health = sampler.sample(k3s_runs=True, is_server=True)
    assert probes.asked == ["kubelet", "etcd"] * 2
    assert (health.kubelet_healthy, health.etcd_fsync_p99_s) == (True, 0.012)


def test_vcgencmd_is_asked_where_the_driver_has_no_file(tmp_path: Path) -> None:
    root = make_node_root(tmp_path)
    (root / "dev").mkdir()
    (root / "dev/vcio").write_text("")
    system, clock = System(), Clock()
    sampler = Sampler(root, system, monotonic=clock, probes=Probes())
    assert [sampler.sample().throttled for _ in range(5)] == [0x80008] * 5
    assert len(system.calls) == 1


def test_writes_are_timed_between_two_readings(tmp_path: Path) -> None:
    root, clock = make_board_root("cm4_worn_emmc", tmp_path), Clock()
    sampler = Sampler(root, System(), monotonic=clock, probes=Probes())
    assert sampler.sample().disks[0].write_latency_ms is None
    (root / "sys/block/mmcblk0/stat").write_text("1000 0 80000 2000 70 1 400 24090 0 80 110\n")
    clock.now += MINUTE_S
    assert sampler.sample().disks[0].write_latency_ms == 1200.0


@pytest.mark.parametrize(
    ("before", "after", "latency"),
    [
        ((10, 100), (20, 200), 10.0),
        ((10, 100), (19, 200), None),
        ((20, 200), (10, 100), None),
        (None, (10, 100), None),
    ],
    ids=["ten", "too-few", "counted-anew", "first"],
)
def test_write_latency(before: tuple[int, int] | None, after: tuple[int, int], latency: float | None) -> None:
    assert write_latency_ms(WriteTotals(*before) if before else None, WriteTotals(*after)) == latency


def test_flushes_count_as_writes() -> None:
    line = "1 2 3 4 5 6 7 80 9 10 11 12 13 14 15 16 170"
    assert parse_write_totals(line) == WriteTotals(5 + 16, 80 + 170)
    assert parse_write_totals("1 2 3") is None
    assert parse_write_totals("") is None


def test_smart_log_page_is_read_little_endian() -> None:
    page = bytearray(512)
    page[0], page[3], page[4], page[5] = 0x05, 4, 10, 103
    page[144:146] = (513).to_bytes(2, "little")
    page[160:163] = (70_000).to_bytes(3, "little")
    log = parse_smart_log(bytes(page))
    assert log is not None
    assert (log.critical_warning, log.spare_percent, log.spare_threshold_percent) == (5, 4, 10)
    assert (log.wear_percent, log.unsafe_shutdowns, log.media_errors) == (103, 513, 70_000)
    assert parse_smart_log(bytes(512)) is None
    assert parse_smart_log(bytes(page)[:511]) is None


def test_get_log_page_command_is_that_of_the_header() -> None:
    command = encode_get_smart_log(0x1122334455667788)
    assert len(command) == 72
    assert command[0] == 0x02
    assert command[4:8] == b"\xff\xff\xff\xff"
    assert command[24:32] == bytes.fromhex("8877665544332211")
    assert int.from_bytes(command[36:40], "little") == 512
    assert int.from_bytes(command[40:44], "little") == 0x007F0002
    assert int.from_bytes(command[64:68], "little") == 5000


@pytest.mark.parametrize("text", ["", "[]", "null", '{"nvme0": 3}', "Failed to connect to bus"])
def test_smart_helper_that_says_something_else_is_no_reading(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_smart(text)


def test_pre_eol() -> None:
    assert [parse_pre_eol(text) for text in ("0x01\n", "0x03", "0x00", "", "junk")] == [
        1,
        3,
        None,
        None,
        None,
    ]


def test_read_only_is_what_the_filesystem_says() -> None:
    lines = (
        "22 1 8:2 / / ro,relatime - ext4 /dev/sda2 rw\n"
        "30 22 8:3 / /var/lib/rancher rw - ext4 /dev/sda3 ro,errors=remount-ro\n"
        "31 22 7:0 / /snap/core ro - squashfs /dev/loop0 ro\n"
        "32 22 0:5 / /bad\n"
    )
    assert find_read_only(lines) == ("/var/lib/rancher",)


def test_oom_kills() -> None:
    assert parse_oom_kills("a 1\noom_kill 12\nb 2\n") == 12
    assert parse_oom_kills("oom_kill_x 12\n") is None


@given(st.binary(max_size=400))
def test_any_kernel_record_is_counted_or_ignored(record: bytes) -> None:
    counts = count_records(record, LogCounts(1, 2))
    assert counts.io_errors >= 1
    assert counts.filesystem_errors >= 2


METRICS = b"""# HELP etcd_disk_wal_fsync_duration_seconds The latency distributions of fsync called by WAL.
# TYPE etcd_disk_wal_fsync_duration_seconds histogram
etcd_disk_wal_fsync_duration_seconds_bucket{le="0.001"} %d
etcd_disk_wal_fsync_duration_seconds_bucket{le="0.008"} %d
etcd_disk_wal_fsync_duration_seconds_bucket{le="0.128"} %d
etcd_disk_wal_fsync_duration_seconds_bucket{le="+Inf"} %d
etcd_disk_wal_fsync_duration_seconds_sum 12.5
"""


def test_fsync_quantile_is_of_the_time_between_two_scrapes() -> None:
    before, after = (
        parse_fsync_buckets(METRICS % (900, 1000, 1000, 1000)),
        parse_fsync_buckets(METRICS % (900, 1050, 1100, 1100)),
    )
    p99 = quantile_between(before, after)
    assert p99 is not None
    assert 0.12 < p99 < 0.128
    assert quantile_between(after, before) is None  # etcd started anew
    assert quantile_between(before, before) is None
    assert parse_fsync_buckets(b"nothing of it") == {}


def test_fsyncs_beyond_the_last_bound_count_with_that_bound() -> None:
    buckets = parse_fsync_buckets(METRICS % (0, 0, 0, 100))
    assert quantile_between({}, buckets) == 0.128
