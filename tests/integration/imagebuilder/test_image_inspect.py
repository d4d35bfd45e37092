"""Whole disks with real filesystems: each kind is recognised, and damage is named with its place."""

from __future__ import annotations

import json
import lzma
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from fakes_image import BOOT_START_LBA, make_disk
from fakes_systems import SIGNATURE, SYSTEMS, make_elf

from bramble.cli import bramble
from fleet.boards import BoardModel
from imagebuilder.disk.sparse import copy_sparse
from imagebuilder.errors import NotUnderstood
from imagebuilder.inspect import Dialect, inspect_image

pytestmark = pytest.mark.integration

BOOT = BOOT_START_LBA * 512
ROOT = BOOT + 40 * 2**20


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_each_system_is_recognised_from_its_content(name: str, tmp_path: Path) -> None:
    facts = inspect_image(make_disk(tmp_path / "misleading-ubuntu.img", system=SYSTEMS[name]))
    assert facts.dialect.value == name.removesuffix("-ab")
    assert facts.table.disk_id == f"{SIGNATURE:08x}"
    assert (facts.boot.offset, facts.root.offset) == (BOOT, ROOT)
    assert facts.boot.faults == ()
    assert "orphan_file" in facts.root.features
    assert facts.system.architecture == "arm64"
    assert facts.system.distribution == (
        "ubuntu" if "ubuntu" in name else name.split("-")[0].replace("rpi", "raspios")
    )
    assert facts.os_prefix == ("current/" if name == "ubuntu-ab" else "")
    assert facts.board(BoardModel.PI4).problem is None
    assert facts.kernel_version == facts.kernels[0].version
    assert facts.module_versions == ("6.12.0-test",)
    assert {reference.partition for reference in facts.references} == {1, 2}
    assert {reference.place for reference in facts.references} == {*facts.cmdlines, "/etc/fstab"}


def test_the_command_prints_facts_for_people_and_programs(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "disk.img", system=SYSTEMS["raspios-trixie"])
    shown = CliRunner().invoke(bramble, ["image", "inspect", str(disk)])
    assert shown.exit_code == 0
    assert "dialect    raspios-trixie" in shown.output
    assert "kernel_2712.img: 6.12.47+rpt-rpi-2712, 16 KiB pages" in shown.output
    facts = json.loads(CliRunner().invoke(bramble, ["image", "inspect", str(disk), "--json"]).output)
    assert facts["system"]["release"] == "trixie"
    assert facts["boards"][0]["kernel"] == "kernel8.img"
    assert facts["table"]["partitions"][1]["offset"] == ROOT


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_disk(tmp_path_factory.mktemp("pristine") / "disk.img")


def flip(offset: int, data: bytes) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    return spoil


def cut(size: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, size)


INCOMPAT = ROOT + 1024 + 0x60
DAMAGES = {
    "no table": (flip(0, bytes(512)), "first sector is empty"),
    "no magic": (flip(510, b"\0\0"), "ends in 00 00"),
    "type of an extended partition": (flip(450, b"\x0f"), "extended partition"),
    "empty partition": (flip(446 + 12, bytes(4)), "0 sectors"),
    "overlap": (flip(462 + 8, struct.pack("<I", 4096)), "overlap"),
    "beyond the end": (flip(462 + 12, struct.pack("<I", 10**6)), "ends at byte"),
    "cut short": (cut(ROOT + 2**20), "the disk has"),
    "cut to nothing": (cut(100), "the file has 100 bytes"),
    "no FAT": (flip(BOOT, bytes(512)), "no partition is a FAT32 with config.txt.*at byte 1048576"),
    "FAT of another size": (flip(BOOT + 36, bytes(4)), "impossible sizes"),
    "no ext4": (flip(ROOT + 1024, bytes(1024)), "no partition holds an ext4"),
    "needs recovery": (flip(INCOMPAT, b"\xc6"), f"at byte {ROOT}: the ext4.*not unmounted cleanly"),
    "encrypted": (flip(INCOMPAT + 2, b"\x01"), "cannot edit: encrypt"),
    "casefold": (flip(INCOMPAT + 2, b"\x02"), "cannot edit: casefold"),
    "inline data": (flip(INCOMPAT + 1, b"\x82"), "cannot edit: inline_data"),
    "unknown bit": (flip(INCOMPAT + 3, b"\x80"), "cannot edit: FEATURE_I31"),
    "errors": (flip(ROOT + 1024 + 0x3A, b"\x03"), "marked as containing errors"),
    "compressed": (lambda path: path.write_bytes(lzma.compress(bytes(10))) and None, "compressed with xz"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_with_its_place(name: str, pristine: Path, tmp_path: Path) -> None:
    spoil, message = DAMAGES[name]
    copy_sparse(pristine, tmp_path / "disk.img")
    spoil(tmp_path / "disk.img")
    with pytest.raises(NotUnderstood, match=message) as caught:
        inspect_image(tmp_path / "disk.img")
    assert caught.value.message.startswith("disk.img: ")
    assert caught.value.hint


def test_every_truncation_is_an_error_and_never_a_crash(pristine: Path, tmp_path: Path) -> None:
    size = pristine.stat().st_size
    for sixteenth in range(16):
        copy_sparse(pristine, tmp_path / "disk.img")
        cut(size * sixteenth // 16)(tmp_path / "disk.img")
        with pytest.raises(NotUnderstood):
            inspect_image(tmp_path / "disk.img")


def test_marks_of_an_unclean_fat_are_facts(pristine: Path, tmp_path: Path) -> None:
    copy_sparse(pristine, tmp_path / "disk.img")
    with pristine.open("rb") as file:
        file.seek(BOOT)
        boot = file.read(512)
    (reserved,) = struct.unpack_from("<H", boot, 14)
    flip(BOOT + reserved * 512 + 7, b"\xf7")(tmp_path / "disk.img")
    faults = inspect_image(tmp_path / "disk.img").boot.faults
    assert faults == ("it was not unmounted cleanly (dirty bit)", "copy 2 of the FAT differs from the first")


def test_foreign_systems_are_refused_with_their_names(tmp_path: Path) -> None:
    debian = SYSTEMS["debian"]
    status = {"var/lib/dpkg/status": "Package: libc6\nArchitecture: armhf\n\n"}
    armhf = make_disk(tmp_path / "armhf.img", system=replace(debian, root={**debian.root, **status}))
    with pytest.raises(NotUnderstood, match="is for armhf, expected arm64"):
        inspect_image(armhf)
    no_firmware = {name: data for name, data in debian.boot.items() if name != "config.txt"}
    with pytest.raises(NotUnderstood, match=r"a FAT32 with .*/kernel8.img"):
        inspect_image(make_disk(tmp_path / "uefi.img", system=replace(debian, boot=no_firmware)))
    other = {**debian.boot, "kernel8.img": make_elf()}
    with pytest.raises(NotUnderstood, match=r"kernel8\.img is no 64-bit ARM kernel.*FAT at byte"):
        inspect_image(make_disk(tmp_path / "kernel.img", system=replace(debian, boot=other)))
    fedora = {**debian.root, "etc/os-release": "ID=fedora\n"}
    with pytest.raises(NotUnderstood, match="os-release says 'fedora'"):
        inspect_image(make_disk(tmp_path / "fedora.img", system=replace(debian, root=fedora)))
    data_only = {"etc/fstab": "", "srv/data": ""}
    with pytest.raises(NotUnderstood, match="no /etc/os-release"):
        inspect_image(make_disk(tmp_path / "data.img", system=replace(debian, root=data_only)))


def test_upper_case_names_are_found(tmp_path: Path) -> None:
    debian = SYSTEMS["debian"]
    shouting = {
        name.upper() if name in ("cmdline.txt", "config.txt") else name: data
        for name, data in debian.boot.items()
    }
    facts = inspect_image(make_disk(tmp_path / "disk.img", system=replace(debian, boot=shouting)))
    assert facts.board(BoardModel.PI4).problem is None
    assert facts.dialect is Dialect.DEBIAN
