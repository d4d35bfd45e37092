"""Which disks may be written: what the kernel says of a machine, as files, and the rules over it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from imagebuilder.flash.devices import Disk, Inventory, Use, parse_mounts, parse_swaps, refusals

GIB_SECTORS = 2**21


class Machine:
    """A sysfs tree in a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mounts: list[str] = []
        self.swaps = ["Filename Type Size Used Priority"]
        (root / "block").mkdir()
        self._minor = 0

    def add(
        self,
        name: str,
        files: Mapping[str, str] = MappingProxyType({}),
        *,
        bus: str = "pci0000:00/usb1/1-1",
        sectors: int = 32 * GIB_SECTORS,
    ) -> Path:
        place = self.root / "devices" / bus / "block" / name
        place.mkdir(parents=True)
        (self.root / "block" / name).symlink_to(place)
        self._fill(place, {"size": str(sectors), "removable": "0", "ro": "0", **files})
        return place

    def partition(self, disk: Path, name: str) -> Path:
        place = disk / name
        place.mkdir()
        self._fill(place, {"partition": "1"})
        return place

    def mount(self, place: Path, where: str) -> None:
        number = (place / "dev").read_text()
        self.mounts.append(f"30 1 {number} / {where} rw - ext4 /dev/x rw")

    def hold(self, place: Path, holder: str) -> Path:
        above = self.add(holder, bus="virtual")
        (place / "holders").mkdir(exist_ok=True)
        (place / "holders" / holder).symlink_to(above)
        return above

    def disks(self) -> dict[str, Disk]:
        inventory = Inventory(self.root, "\n".join(self.mounts), "\n".join(self.swaps))
        return {disk.name: disk for disk in inventory.disks()}

    def _fill(self, place: Path, files: dict[str, str]) -> None:
        self._minor += 1
        for name, text in {"dev": f"8:{self._minor}", **files}.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def reasons(disk: Disk, **options: int | bool) -> str:
    return "; ".join(refusal.reason for refusal in refusals(disk, **options))  # type: ignore[arg-type]


def test_card_reader_on_usb_is_a_good_target(machine: Machine) -> None:
    machine.add("sdb", {"device/vendor": "Generic ", "device/model": "STORAGE DEVICE"})
    disk = machine.disks()["sdb"]
    assert disk.title == "Generic STORAGE DEVICE, 34.4 GB, usb, /dev/sdb"
    assert refusals(disk) == ()


def test_card_in_a_slot_is_a_good_target_and_its_boot_areas_are_no_disks(machine: Machine) -> None:
    machine.add("mmcblk0", {"device/name": "SC32G", "device/serial": "0x1234"}, bus="platform/mmc0")
    machine.add("mmcblk0boot0", bus="platform/mmc0")
    disks = machine.disks()
    assert list(disks) == ["mmcblk0"]
    assert (disks["mmcblk0"].model, disks["mmcblk0"].serial) == ("SC32G", "0x1234")
    assert refusals(disks["mmcblk0"]) == ()


@pytest.mark.parametrize("name", ["loop0", "ram1", "zram0", "dm-0", "md127", "sr0", "nbd3", "fd0"])
def test_what_is_no_medium_is_not_listed(machine: Machine, name: str) -> None:
    machine.add(name)
    assert machine.disks() == {}


def test_system_disk_is_never_written(machine: Machine) -> None:
    disk = machine.add("sda", bus="pci0000:00/ata1")
    machine.mount(machine.partition(disk, "sda2"), "/")
    assert reasons(machine.disks()["sda"], allow_fixed=True) == "this machine runs from it (mounted on /)"


def test_system_disk_with_btrfs_is_never_written(machine: Machine) -> None:
    disk = machine.add("sda", bus="pci0000:00/ata1")
    machine.partition(disk, "sda2")
    machine.mounts += [
        "29 1 0:27 /root / rw,relatime shared:1 - btrfs /dev/sda2 rw,subvolid=256",
        "47 1 0:27 /home /home rw,relatime shared:2 - btrfs /dev/sda2 rw,subvolid=257",
        "48 1 0:5 / /dev rw,nosuid shared:3 - devtmpfs devtmpfs rw",
    ]
    text = reasons(machine.disks()["sda"], allow_fixed=True)
    assert text == "this machine runs from it (mounted on /, mounted on /home)"


def test_system_disk_below_crypt_and_lvm_is_never_written(machine: Machine) -> None:
    disk = machine.add("nvme0n1", bus="pci0000:00/nvme/nvme0")
    crypt = machine.hold(machine.partition(disk, "nvme0n1p3"), "dm-0")
    machine.mount(machine.hold(crypt, "dm-1"), "/")
    text = reasons(machine.disks()["nvme0n1"], allow_fixed=True)
    assert text == "this machine runs from it (held by dm-0)"


def test_swap_is_the_systems(machine: Machine) -> None:
    disk = machine.add("sdb")
    machine.partition(disk, "sdb1")
    machine.swaps.append("/dev/sdb1 partition 1000 0 -2")
    assert "runs from it (swap)" in reasons(machine.disks()["sdb"])


def test_mounted_card_is_named_with_its_place(machine: Machine) -> None:
    disk = machine.add("sdb")
    machine.mount(machine.partition(disk, "sdb1"), r"/media/pi/my\040card")
    found = refusals(machine.disks()["sdb"])
    assert [refusal.reason for refusal in found] == ["it is in use: mounted on /media/pi/my card"]
    assert found[0].mend == "Unmount it first."


def test_member_of_an_array_is_in_use(machine: Machine) -> None:
    machine.hold(machine.add("sdb"), "md0")
    found = refusals(machine.disks()["sdb"])
    assert found[0].reason == "it is in use: held by md0"
    assert "mdadm" in found[0].mend


def test_every_reason_is_said_at_once(machine: Machine) -> None:
    machine.add("sda", {"ro": "1"}, bus="pci0000:00/ata1", sectors=100)
    text = reasons(machine.disks()["sda"], needed_bytes=10**6)
    assert text == "it has 51200 bytes, the image needs 1000000; it is write-protected; it is not removable"


def test_empty_reader_says_so(machine: Machine) -> None:
    machine.add("sdb", {"removable": "1"}, sectors=0)
    assert reasons(machine.disks()["sdb"], needed_bytes=10**6) == "there is no medium in it"


def test_fixed_disk_is_written_only_on_purpose(machine: Machine) -> None:
    machine.add("nvme1n1", bus="pci0000:00/nvme/nvme1")
    disk = machine.disks()["nvme1n1"]
    assert reasons(disk) == "it is not removable"
    assert refusals(disk, allow_fixed=True) == ()


def test_device_is_found_behind_a_link_and_a_partition_is_none(machine: Machine, tmp_path: Path) -> None:
    disk = machine.add("sdb")
    machine.partition(disk, "sdb1")
    dev = tmp_path / "dev"
    dev.mkdir()
    (dev / "sdb").touch()
    (dev / "by-id").symlink_to("sdb")
    inventory = Inventory(machine.root, "", "")
    assert inventory.find(dev / "by-id") == machine.disks()["sdb"]
    assert inventory.find(dev / "sdb1") is None


def test_damaged_lines_are_passed_over() -> None:
    assert parse_mounts("\nx\n1 2\n") == {}
    assert parse_swaps("") == []
    assert parse_swaps("Filename\n/swapfile file 1 0 -2\n/dev/sda3 partition 1 0 -2\n") == ["sda3"]


def test_machine_without_sysfs_has_no_disks(tmp_path: Path) -> None:
    assert Inventory(tmp_path, "", "").disks() == []


def test_use_is_told_apart_from_the_systems() -> None:
    disk = Disk(
        name="sdb",
        size_bytes=10,
        model="",
        serial="",
        transport="usb",
        removable=True,
        read_only=False,
        uses=(Use("mounted on /mnt"), Use("mounted on /home", is_system=True)),
    )
    assert len(refusals(disk)) == 2
