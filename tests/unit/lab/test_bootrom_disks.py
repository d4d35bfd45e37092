"""Disk modes, RAM disks and self-updates over files in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
from fakes_fat import make_fat
from hypothesis import given
from hypothesis import strategies as st

from fleet.boards import BoardModel, BootMode, MacAddress, Serial
from lab.bootloader.client import make_boot
from lab.bootloader.disk_boot import Autoboot, boot_from_disk, parse_autoboot
from lab.bootloader.fat import FatError, FatImage
from lab.bootloader.files import BoardResetError, BoardStuckError, Boot, BootFiles, ModeFailedError, read_all
from lab.bootloader.filters import Circumstances
from lab.bootloader.loader import load
from lab.bootloader.profile import PI4_2023, PI5_2025, BoardIdentity, EepromProfile, Family
from lab.bootloader.settings import EepromSettings

SERIAL = Serial.parse("10000000d03114aa")
PI5_FILES = {
    "config.txt": b"kernel=kernel8.img\n",
    "bcm2712-rpi-5-b.dtb": b"dtb",
    "kernel8.img": b"kernel" * 300,
    "cmdline.txt": b"quiet",
}
PI4_FILES = {
    "config.txt": b"",
    "start4.elf": b"firmware",
    "fixup4.dat": b"fixup",
    "bcm2711-rpi-4-b.dtb": b"dtb",
    "kernel8.img": b"kernel" * 300,
    "cmdline.txt": b"quiet",
}


@dataclass
class MemoryDisk:
    files: Mapping[int, Mapping[str, bytes]]

    def partitions(self) -> Sequence[int]:
        return tuple(self.files)

    def read(self, partition: int, name: str) -> bytes | None:
        return self.files[partition].get(name)


def _boot(
    profile: EepromProfile = PI5_2025,
    settings: EepromSettings | None = None,
    source: BootMode = BootMode.NVME,
    *,
    eeprom_timestamp: int = 0,
    tryboot: bool = False,
    partition: int = 0,
) -> Boot:
    model = BoardModel.PI4 if profile.family is Family.BCM2711 else BoardModel.PI5
    board = BoardIdentity(
        model=model,
        serial=SERIAL,
        mac=MacAddress.parse("2c:cf:67:12:34:56"),
        revision=model.revision_codes[-1],
    )
    return make_boot(
        board,
        profile.with_settings(settings) if settings else profile,
        source,
        circumstances=Circumstances(model=model, serial=SERIAL, tryboot=tryboot, partition=partition),
        eeprom_timestamp=eeprom_timestamp,
    )


WALK = EepromSettings(partition_walk=True)
STAY = EepromSettings(partition_walk=False)


def test_without_autoboot_the_first_fat_partition_is_booted() -> None:
    files = boot_from_disk(_boot(), MemoryDisk({2: PI5_FILES, 3: PI5_FILES}))
    assert (files.partition, files.cmdline) == (2, "quiet")


def test_autoboot_names_the_partition_and_tryboot_the_other() -> None:
    autoboot = b"[all]\nboot_partition=2\ntryboot_a_b=1\n[tryboot]\nboot_partition=3\n"
    disk = MemoryDisk({1: {"autoboot.txt": autoboot}, 2: PI5_FILES, 3: PI5_FILES})
    assert boot_from_disk(_boot(), disk).partition == 2
    assert boot_from_disk(_boot(tryboot=True), disk).partition == 3


def test_tryboot_without_a_b_reads_tryboot_txt_beside_config_txt() -> None:
    files = PI5_FILES | {"tryboot.txt": b"kernel=kernel8.img\ncmdline=try.txt\n", "try.txt": b"trying"}
    assert boot_from_disk(_boot(tryboot=True), MemoryDisk({1: files})).cmdline == "trying"
    assert boot_from_disk(_boot(), MemoryDisk({1: files})).cmdline == "quiet"
    with pytest.raises(ModeFailedError, match=r"tryboot\.txt not found"):
        boot_from_disk(_boot(tryboot=True), MemoryDisk({1: PI5_FILES}))


@pytest.mark.parametrize(
    ("data", "tryboot", "expected"),
    [
        (b"boot_partition=2\n", False, Autoboot(2)),
        (b"[none]\nboot_partition=2\n", False, Autoboot(0)),
        (b"[pi5]\nboot_partition=2\n", False, Autoboot(0)),
        (b"[tryboot]\nboot_partition=2\n", False, Autoboot(0)),
        (b"[tryboot]\nboot_partition=2\n", True, Autoboot(2)),
        (b"boot_partition=two\n", False, Autoboot(0)),
        (b"boot_partition=2\n" + b"#" * 512, False, Autoboot(0)),
        (b"#boot_partition=2\ntryboot_a_b=1\n", False, Autoboot(0, tryboot_a_b=True)),
    ],
)
def test_autoboot_knows_three_filters_and_512_bytes(data: bytes, tryboot: bool, expected: Autoboot) -> None:
    assert parse_autoboot(data, tryboot=tryboot) == expected


@given(st.binary(max_size=600), st.booleans())
def test_any_bytes_are_an_autoboot(data: bytes, tryboot: bool) -> None:
    assert parse_autoboot(data, tryboot=tryboot).boot_partition >= 0


def test_a_reboots_argument_goes_before_the_setting_and_both_before_autoboot() -> None:
    disk = MemoryDisk({1: {"autoboot.txt": b"boot_partition=2\n"} | PI5_FILES, 2: PI5_FILES, 3: PI5_FILES})
    setting = replace(STAY, partition=3)
    assert boot_from_disk(_boot(settings=setting), disk).partition == 3
    assert boot_from_disk(_boot(settings=setting, partition=1), disk).partition == 1
    assert boot_from_disk(_boot(settings=setting, partition=63), disk).partition == 3


def test_the_walk_goes_on_to_the_next_bootable_partition() -> None:
    disk = MemoryDisk({1: {}, 2: {"config.txt": b""}, 3: PI5_FILES})
    assert boot_from_disk(_boot(settings=WALK), disk).partition == 3
    with pytest.raises(ModeFailedError, match=r"partition 1: config.txt not found"):
        boot_from_disk(_boot(settings=STAY), disk)


def test_a_disk_with_nothing_on_it_names_every_partition_that_was_tried() -> None:
    with pytest.raises(ModeFailedError, match=r"partition 1: .*; partition 2: "):
        boot_from_disk(_boot(settings=WALK), MemoryDisk({1: {}, 2: {}}))
    with pytest.raises(ModeFailedError, match="no partition table"):
        boot_from_disk(_boot(), MemoryDisk({}))


# --- boot_ramdisk


@pytest.mark.parametrize("kind", [12, 16, 32])
@pytest.mark.parametrize(("profile", "files"), [(PI4_2023, PI4_FILES), (PI5_2025, PI5_FILES)])
def test_a_ramdisk_holds_everything_that_is_read_later(
    profile: EepromProfile, files: Mapping[str, bytes], kind: int
) -> None:
    asked: list[str] = []
    served = {"config.txt": b"boot_ramdisk=1\n", "boot.img": make_fat(files, kind), "start4.elf": b"x"}

    def read(name: str) -> bytes | None:
        asked.append(name)
        return served.get(name.removeprefix(f"{SERIAL.prefix}/"))

    found = read_all(load(_boot(profile, source=BootMode.NETWORK)), read)
    assert found.from_ramdisk
    assert found.source is BootMode.NETWORK
    assert found.kernel == files["kernel8.img"]
    assert asked[-1].endswith("boot.img")  # the kernel and the rest came out of it
    assert not [name for name in asked if "kernel" in name]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (None, "boot.img not found"),
        (b"not a file system", "boot.img: no FAT"),
        (make_fat({"config.txt": b""}), "os_check"),
        (make_fat({}), "config.txt not found"),
    ],
    ids=["missing", "garbage", "no-kernel", "empty"],
)
def test_a_ramdisk_that_can_not_be_booted_ends_the_mode(image: bytes | None, reason: str) -> None:
    files = {"config.txt": b"boot_ramdisk=1\n"} | ({"boot.img": image} if image is not None else {})
    with pytest.raises(ModeFailedError, match=reason):
        read_all(load(_boot(source=BootMode.SD)), files.get)


def test_a_ramdisk_above_the_limit_is_refused_by_its_size_alone() -> None:
    profile = replace(PI5_2025, max_boot_img_bytes=1000)
    files = {"config.txt": b"boot_ramdisk=1\n", "boot.img": bytes(1001)}
    with pytest.raises(ModeFailedError, match=r"File is too large\. Max size 1000"):
        read_all(load(_boot(profile, source=BootMode.SD)), files.get)


def test_a_tryboot_takes_the_other_ramdisk() -> None:
    files = {"tryboot.txt": b"boot_ramdisk=1\n", "tryboot.img": make_fat(PI5_FILES)}
    assert read_all(load(_boot(source=BootMode.SD, tryboot=True)), files.get).cmdline == "quiet"


def test_a_board_with_signed_boot_takes_no_unsigned_ramdisk() -> None:
    settings = EepromSettings(signed_boot=True)
    files = {"config.txt": b"", "boot.img": make_fat(PI5_FILES)}
    with pytest.raises(ModeFailedError, match=r"boot\.sig not found"):
        read_all(load(_boot(settings=settings)), files.get)
    digest = hashlib.sha256(files["boot.img"]).hexdigest()
    with pytest.raises(ModeFailedError, match="no public key"):
        read_all(load(_boot(settings=settings)), (files | {"boot.sig": f"{digest}\nts: 1\n".encode()}).get)


# --- the FAT reader


@pytest.mark.parametrize("kind", [12, 16, 32])
def test_fat_files_are_found_by_any_case_and_in_folders(kind: int) -> None:
    files = {"a.txt": b"1" * 1500, "Overlays/vc4-kms-v3d.dtbo": b"2" * 512, "empty": b""}
    image = FatImage(make_fat(files, kind))
    assert image.kind == kind
    assert image.read("A.TXT") == b"1" * 1500
    assert image.read("overlays//VC4-kms-v3d.dtbo") == b"2" * 512
    assert image.read("empty") == b""
    assert image.read("overlays") is image.read("a.txt/b") is image.read("missing") is image.read("") is None


@pytest.mark.parametrize("kind", [12, 16, 32])
def test_a_chain_that_loops_or_leaves_the_disk_is_an_error(kind: int) -> None:
    whole = bytearray(make_fat({"a": b"x" * 2000}, kind, clusters={12: 400, 16: 5000, 32: 66000}[kind]))
    sector = 32 * 512 if kind == 32 else 512
    whole[sector : sector + 16] = b"\xff" * 16
    with pytest.raises(FatError, match="does not exist"):
        FatImage(bytes(whole)).read("a")


@given(st.binary(min_size=0, max_size=64), st.integers(0, 1500))
def test_damaged_file_systems_end_in_an_error_or_in_nothing(noise: bytes, place: int) -> None:
    image = bytearray(make_fat({"config.txt": b"x" * 600, "d/e": b"y"}, 12))
    image[place : place + len(noise)] = noise
    try:
        volume = FatImage(bytes(image))
        volume.read("config.txt")
        volume.read("d/e")
    except FatError:
        return


# --- pieeprom.sig


def _update(timestamp: int, image: bytes = b"new eeprom") -> dict[str, bytes]:
    sig = f"{hashlib.sha256(image).hexdigest()}\nts: {timestamp}\n".encode()
    return {"pieeprom.sig": sig, "pieeprom.upd": b"new eeprom"}


@pytest.mark.parametrize(("profile", "files"), [(PI4_2023, PI4_FILES), (PI5_2025, PI5_FILES)])
def test_a_newer_bootloader_image_is_taken_and_resets_the_board(
    profile: EepromProfile, files: Mapping[str, bytes]
) -> None:
    with pytest.raises(BoardResetError) as raised:
        read_all(load(_boot(profile, eeprom_timestamp=100)), (dict(files) | _update(101)).get)
    assert raised.value.timestamp == 101


@pytest.mark.parametrize(
    ("settings", "files"),
    [
        (STAY, _update(100)),
        (STAY, _update(99)),
        (replace(STAY, self_update=False), _update(101)),
        (STAY, _update(101) | {"config.txt": b"kernel=kernel8.img\nbootloader_update=0\n"}),
        (STAY, _update(101, b"another image")),
        (STAY, {"pieeprom.sig": b"garbage"}),
        (STAY, {"pieeprom.sig": _update(101)["pieeprom.sig"]}),
    ],
    ids=["same", "older", "frozen", "config-txt", "wrong-digest", "garbage", "no-image"],
)
def test_any_other_bootloader_image_is_passed_over(
    settings: EepromSettings, files: Mapping[str, bytes]
) -> None:
    boot = _boot(settings=settings, eeprom_timestamp=100)
    assert isinstance(read_all(load(boot), (PI5_FILES | dict(files)).get), BootFiles)


# --- config.txt by way of the EEPROM, and forms of initramfs


def test_the_eeprom_appends_its_own_lines_to_config_txt() -> None:
    settings = replace(STAY, config_txt=b"cmdline=own.txt")
    files = PI5_FILES | {"config.txt": b"kernel=kernel8.img\n[pi4]\n", "own.txt": b"own"}
    assert read_all(load(_boot(settings=settings)), files.get).cmdline == "own"


@pytest.mark.parametrize(
    ("line", "content"),
    [
        ("initramfs a followkernel", b"A"),
        ("initramfs a 0x00800000", b"A"),
        ("initramfs a,b followkernel", b"AB"),
        ("ramfsfile=a,b", b"AB"),
        ("auto_initramfs=1", b"auto"),
        ("initramfs a,missing followkernel", None),
    ],
)
@pytest.mark.parametrize(("profile", "files"), [(PI4_2023, PI4_FILES), (PI5_2025, PI5_FILES)])
def test_forms_of_initramfs(
    profile: EepromProfile, files: Mapping[str, bytes], line: str, content: bytes | None
) -> None:
    tree = dict(files) | {"a": b"A", "b": b"B", "initramfs8": b"auto"}
    tree["config.txt"] = b"kernel=kernel8.img\n" + line.encode() + b"\n"
    assert read_all(load(_boot(profile)), tree.get).initramfs == content


def test_includes_are_nothing_to_the_loader_of_a_pi_5() -> None:
    files = PI5_FILES | {"config.txt": b"kernel=kernel8.img\ninclude more.txt\n", "more.txt": b"cmdline=x"}
    assert read_all(load(_boot()), files.get).cmdline == "quiet"


def test_a_32_bit_kernel_is_beyond_the_virtual_board() -> None:
    files = PI4_FILES | {"config.txt": b"arm_64bit=0\n"}
    with pytest.raises(BoardStuckError, match="arm_64bit=0"):
        read_all(load(_boot(PI4_2023)), files.get)
