"""Recorded device trees, /proc and /sys of boards; the files are what the kernels show."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from agent_nodes import make_node_root, write_tree

from agent import __version__
from agent.errors import AgentError
from agent.hardware import (
    parse_device_tree_u32,
    parse_meminfo,
    parse_serial,
    read_disks,
    read_hardware,
    read_interfaces,
)
from agent.health import (
    find_missing_cgroup,
    has_memory_cgroup,
    is_clock_synchronised,
    parse_pressure,
    parse_throttled,
    read_health,
)
from agent.storage import parse_emmc_life_time


@pytest.fixture
def pi5(tmp_path: Path) -> Path:
    """A Pi 5 with NVMe, a card, a USB stick and Wi-Fi."""
    root = write_tree(
        make_node_root(tmp_path / "pi5"),
        {
            "proc/device-tree/serial-number": b"9f3a11c27be4d00d\0",
            "proc/device-tree/system/linux,revision": b"\x00\xd0\x41\x71",
            "proc/device-tree/chosen/bootloader/boot-mode": b"\0\0\0\x02",
            "proc/device-tree/aliases/ethernet0": b"/axi/pcie@1000120000/rp1/ethernet@100000\0",
            "proc/device-tree/axi/pcie@1000120000/rp1/ethernet@100000/local-mac-address": bytes.fromhex(
                "2ccf67123456"
            ),
            "sys/devices/platform/axi/eth/placeholder": "",
            "sys/devices/platform/axi/usb1/1-1/1-1:1.0/placeholder": "",
            "sys/devices/platform/wifi/placeholder": "",
            "sys/class/net/lo/address": "00:00:00:00:00:00\n",
            "sys/class/net/cni0/address": "aa:bb:cc:00:00:01\n",
            "sys/class/net/eth0/address": "2c:cf:67:12:34:56\n",
            "sys/class/net/wlan0/address": "2c:cf:67:12:34:57\n",
            "sys/class/net/wlan0/wireless/x": "",
            "sys/class/net/aux0/address": "00:e0:4c:68:00:01\n",
            "sys/block/nvme0n1/size": "976773168\n",
            "sys/block/nvme0n1/removable": "0\n",
            "sys/devices/nvme0/serial": "S64ANS0T123456K     \n",
            "sys/devices/nvme0/model": "Samsung SSD 980 500GB                   \n",
            "sys/block/mmcblk0/size": "62333952\n",
            "sys/devices/mmc0/serial": "0x1c0ffee1\n",
            "sys/devices/mmc0/name": "SC32G\n",
            "sys/block/mmcblk0boot0/size": "8192\n",
            "sys/block/sda/size": "30310400\n",
            "sys/block/sda/removable": "1\n",
            "sys/devices/usb2/2-1/serial": "4C530001\n",
            "sys/devices/usb2/2-1/2-1:1.0/host0/target0:0:0/0:0:0:0/vendor": "SanDisk \n",
            "sys/devices/usb2/2-1/2-1:1.0/host0/target0:0:0/0:0:0:0/model": "Ultra           \n",
            "sys/block/loop0/size": "8192\n",
            "sys/block/ram0/size": "8192\n",
            "sys/block/zram0/size": "8192\n",
            "sys/block/sdb/size": "0\n",
            "sys/block/nvme0c0n1/size": "976773168\n",
            "sys/block/nvme0c0n1/hidden": "1\n",
        },
    )
    links = {
        "sys/class/net/eth0/device": "sys/devices/platform/axi/eth",
        "sys/class/net/wlan0/device": "sys/devices/platform/wifi",
        "sys/class/net/aux0/device": "sys/devices/platform/axi/usb1/1-1/1-1:1.0",
        "sys/block/nvme0n1/device": "sys/devices/nvme0",
        "sys/block/mmcblk0/device": "sys/devices/mmc0",
        "sys/block/sda/device": "sys/devices/usb2/2-1/2-1:1.0/host0/target0:0:0/0:0:0:0",
    }
    for name, target in links.items():
        (root / name).symlink_to(root / target)
    return root


def test_hardware_of_a_pi5(pi5: Path) -> None:
    hardware = read_hardware(pi5)
    assert hardware.serial == "9f3a11c27be4d00d"
    assert hardware.model == "Raspberry Pi 5 Model B Rev 1.0"
    assert hardware.revision == 0xD04171
    assert hardware.boot_mode == 2
    assert hardware.memory_bytes == 4045140 * 1024
    assert hardware.macs == ("2c:cf:67:12:34:56", "00:e0:4c:68:00:01", "2c:cf:67:12:34:57")


def test_onboard_interface_comes_first_and_virtual_ones_are_left_out(pi5: Path) -> None:
    interfaces = read_interfaces(pi5)
    assert [interface.name for interface in interfaces] == ["eth0", "aux0", "wlan0"]
    assert interfaces[0].onboard
    assert interfaces[1].usb
    assert interfaces[2].wireless


def test_disks_have_kinds_serials_and_sizes(pi5: Path) -> None:
    found = {disk.path.name: disk for disk in read_disks(pi5)}
    assert sorted(found) == ["mmcblk0", "nvme0n1", "sda"]
    assert found["nvme0n1"].describe() == (
        "/dev/nvme0n1 (nvme, Samsung SSD 980 500GB, serial S64ANS0T123456K, 465.8 GiB)"
    )
    assert (found["mmcblk0"].kind, found["mmcblk0"].serial, found["mmcblk0"].model) == (
        "sd",
        "0x1c0ffee1",
        "SC32G",
    )
    stick = found["sda"]
    assert (stick.kind, stick.serial, stick.model, stick.removable) == (
        "usb",
        "4C530001",
        "SanDisk Ultra",
        True,
    )


def test_agent_is_of_the_release_that_ships_it() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    assert project["project"]["version"] == __version__


def test_serial_and_revision_come_from_cpuinfo_where_the_tree_has_none(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path,
        {
            "proc/cpuinfo": "processor\t: 0\n\nRevision\t: c03115\nSerial\t\t: 10000000d03114aa\n"
            "Model\t\t: Raspberry Pi 4 Model B Rev 1.5\n",
            "proc/meminfo": "MemTotal:        3884220 kB\n",
        },
    )
    hardware = read_hardware(root)
    assert (hardware.serial, hardware.revision) == ("10000000d03114aa", 0xC03115)
    assert hardware.model == "Raspberry Pi 4 Model B Rev 1.5"
    assert hardware.macs == ()


def test_board_without_serial_is_an_error_that_says_why(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"proc/meminfo": "MemTotal: 1 kB\n"})
    with pytest.raises(AgentError, match="no board serial") as caught:
        read_hardware(root)
    assert "device tree" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "serial"),
    [
        ("10000000D03114AA", "10000000d03114aa"),
        ("d03114aa", "00000000d03114aa"),
        ("", None),
        ("not-hex-at-all", None),
        ("1" * 17, None),
    ],
)
def test_serials(text: str, serial: str | None) -> None:
    assert parse_serial(text) == serial


def test_device_tree_cell_of_another_length_is_nothing() -> None:
    assert parse_device_tree_u32(b"\0\0\0\x06") == 6
    assert parse_device_tree_u32(b"\0\0\0\0\0\0\0\x06") is None


def test_meminfo_without_the_key_is_an_error() -> None:
    with pytest.raises(AgentError, match="MemAvailable"):
        parse_meminfo("MemTotal: 5 kB\n", "MemAvailable")


@pytest.mark.parametrize(
    ("text", "bits"),
    [("50005\n", 0x50005), ("0x0", 0), ("throttled=0x80008\n", 0x80008), ("", None), ("error", None)],
)
def test_throttled_bits(text: str, bits: int | None) -> None:
    assert parse_throttled(text) == bits


@pytest.mark.parametrize(
    ("text", "percent"),
    [("0x01 0x01\n", 10), ("0x02 0x05\n", 50), ("0x0b 0x01\n", 110), ("0x00 0x00\n", None), ("", None)],
)
def test_emmc_wear(text: str, percent: int | None) -> None:
    assert parse_emmc_life_time(text) == percent


def test_pressure_is_the_some_line() -> None:
    text = "some avg10=2.25 avg60=1.00 avg300=0.10 total=99\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=1\n"
    assert parse_pressure(text) == 2.25
    assert parse_pressure("") is None


def test_health_readings_that_are_absent_are_none(tmp_path: Path) -> None:
    health = read_health(make_node_root(tmp_path))
    assert health.uptime_s == 35.21
    assert health.load1 == 0.52
    assert health.memory_available_bytes == 3500000 * 1024
    assert health.root_free_bytes > 0
    assert health.temperature_c is None
    assert health.throttled is None
    assert health.storage_wear_percent is None
    assert health.pressure_some_avg10 == {"cpu": 1.5}


def test_health_readings_that_are_there(tmp_path: Path) -> None:
    root = write_tree(
        make_node_root(tmp_path),
        {
            "sys/class/thermal/thermal_zone0/type": "nvme\n",
            "sys/class/thermal/thermal_zone0/temp": "30000\n",
            "sys/class/thermal/thermal_zone1/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone1/temp": "51850\n",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "50000\n",
            "sys/block/mmcblk0/device/life_time": "0x03 0x01\n",
        },
    )
    health = read_health(root)
    assert health.temperature_c == 51.85
    assert health.throttled == 0x50000
    assert health.storage_wear_percent == 30


def test_clock_is_synchronised_when_timesyncd_left_its_mark(tmp_path: Path) -> None:
    root = make_node_root(tmp_path)
    assert is_clock_synchronised(root)
    (root / "run/systemd/timesync/synchronized").unlink()
    assert not is_clock_synchronised(root)


def test_memory_cgroup_gate(tmp_path: Path) -> None:
    root = make_node_root(tmp_path)
    assert find_missing_cgroup(root) is None
    controllers = root / "sys/fs/cgroup/cgroup.controllers"
    controllers.write_text("cpuset cpu io pids\n")
    problem = find_missing_cgroup(root)
    assert problem is not None
    assert problem.code == "cgroup_memory"
    assert "cpuset cpu io pids" in problem.message
    controllers.unlink()
    missing = find_missing_cgroup(root)
    assert missing is not None
    assert "not mounted" in missing.message
    assert not has_memory_cgroup("hugetlb memory_recursiveprot")
