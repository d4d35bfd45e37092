from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml

from imagebuilder.bases.base import BaseInfo, PartitionInfo, load_base, parse_info
from imagebuilder.bases.catalogue import DATA_DIR, UnknownBase, recipe_data, recipe_id
from imagebuilder.bases.debian import parse_installed
from imagebuilder.bases.inventory import require_rows
from imagebuilder.bases.layout import disk_identity, render_cmdline, render_fstab
from imagebuilder.bases.recipe import DEBIAN_TRIXIE
from imagebuilder.bases.resolve import find_base
from imagebuilder.disk.mbr import raspios_layout
from imagebuilder.errors import ImageBuilderError, StoreError
from imagebuilder.store import Store

INFO = BaseInfo(
    id="debian-trixie-0123",
    name="debian-trixie",
    distribution="debian",
    suite="trixie",
    architecture="arm64",
    kernel_version="6.12.1+deb13-arm64",
    packages={"apt": "3.0.3"},
    layout=(PartitionInfo(number=1, type=12, start_lba=16384, sectors=8, filesystem="vfat", label="bootfs"),),
    size_bytes=5,
    disk_signature=0xA1,
    recipe={"name": "debian-trixie"},
    built_with={"suites": ["trixie"]},
)


def test_id_follows_from_recipe_and_files_only() -> None:
    data = {"a": b"1", "b": b"2"}
    entry_id = DEBIAN_TRIXIE.entry_id(data)
    assert re.fullmatch(r"debian-trixie-[0-9a-f]{16}", entry_id)
    assert DEBIAN_TRIXIE.entry_id(dict(reversed(data.items()))) == entry_id
    assert DEBIAN_TRIXIE.entry_id({"a": b"1", "b": b"3"}) != entry_id
    assert DEBIAN_TRIXIE.entry_id({"a": b"1", "c": b"2"}) != entry_id
    assert dataclasses.replace(DEBIAN_TRIXIE, packages=("apt",)).entry_id(data) != entry_id


def test_every_file_of_the_base_counts_in_its_id() -> None:
    data = recipe_data()
    assert {"bootstrap.sh", "import-all", "boot-files-hook", "firmware/config.txt"} <= data.keys()
    assert recipe_id(DEBIAN_TRIXIE) == DEBIAN_TRIXIE.entry_id(data)


def test_base_json_survives_a_round_trip() -> None:
    assert parse_info(INFO.render()) == dataclasses.replace(
        INFO, recipe=json.loads(json.dumps(INFO.recipe)), built_with={"suites": ["trixie"]}
    )


def test_finished_base_is_found_by_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert find_base("debian-trixie", store) is None
    with store.create("bases", recipe_id(DEBIAN_TRIXIE)) as work:
        (work / "disk.img").write_bytes(b"12345")
        (work / "base.json").write_text(INFO.render())
    base = find_base("debian-trixie", store)
    assert base is not None
    assert base.disk.read_bytes() == b"12345"
    assert base.info == INFO


@pytest.mark.parametrize(
    ("disk", "info"),
    [
        pytest.param(b"1234", INFO.render(), id="wrong size"),
        pytest.param(b"12345", "{}", id="no fields"),
        pytest.param(b"12345", "{", id="no json"),
        pytest.param(b"12345", "[]", id="no object"),
        pytest.param(b"12345", json.dumps({**json.loads(INFO.render()), "more": 1}), id="unknown field"),
    ],
)
def test_damaged_base_is_an_error_that_names_its_directory(tmp_path: Path, disk: bytes, info: str) -> None:
    (tmp_path / "disk.img").write_bytes(disk)
    (tmp_path / "base.json").write_text(info)
    with pytest.raises(StoreError, match=re.escape(str(tmp_path))):
        load_base(tmp_path)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("debain-trixie", "Did you mean 'debian-trixie'?"),
        ("raspios", "Did you mean 'raspios-lite-bookworm' or 'raspios-lite-trixie'?"),
        ("arch", "Known here: debian-trixie, "),
    ],
)
def test_unknown_base_says_which_is_meant_or_which_there_are(name: str, meant: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(UnknownBase, match=f"there is no base '{name}'") as caught:
        find_base(name, store)
    assert meant in caught.value.hint
    with pytest.raises(UnknownBase, match=f"no base '{name}' is in the cache") as caught:
        require_rows(name, store)
    assert meant in caught.value.hint


@pytest.mark.parametrize(
    ("name", "way"), [("debian-trixie", "build"), ("ubuntu-24.04", "fetch")], ids=["recipe", "stock"]
)
def test_a_base_that_is_not_there_yet_is_got_with_the_command_that_is_told(
    name: str, way: str, tmp_path: Path
) -> None:
    with pytest.raises(UnknownBase) as caught:
        require_rows(name, Store(tmp_path))
    assert caught.value.hint == f"Get it with: bramble base {way} {name}"


def test_disk_identity_is_fixed_by_the_base_and_never_zero() -> None:
    one = disk_identity("debian-trixie-1", 1000)
    assert one == disk_identity("debian-trixie-1", 1000)
    other = disk_identity("debian-trixie-2", 1000)
    assert len({one.signature, other.signature, one.fat_serial, other.fat_serial}) == 4
    assert one.root_uuid not in (other.root_uuid, one.hash_seed)
    assert one.signature != 0
    assert one.environment()["SOURCE_DATE_EPOCH"] == "1000"


def test_fstab_and_cmdline_name_the_partitions_by_signature() -> None:
    mbr = raspios_layout(0xA1B2, 8 * 2**20)
    assert [line.split() for line in render_fstab(mbr).splitlines()] == [
        ["proc", "/proc", "proc", "defaults", "0", "0"],
        ["PARTUUID=0000a1b2-01", "/boot/firmware", "vfat", "defaults", "0", "2"],
        ["PARTUUID=0000a1b2-02", "/", "ext4", "defaults,noatime", "0", "1"],
    ]
    assert render_cmdline(mbr) == (
        "console=serial0,115200 console=tty1 root=PARTUUID=0000a1b2-02 "
        "rootfstype=ext4 fsck.repair=yes rootwait\n"
    )


def test_installed_packages_are_read() -> None:
    text = "ii  apt 3.0.3\nii  libc6:arm64 2.41-12\n"
    assert parse_installed(text) == {"apt": "3.0.3", "libc6": "2.41-12"}


def test_half_installed_packages_are_an_error_with_their_names() -> None:
    with pytest.raises(ImageBuilderError, match=r"not completely installed.*udev \(iU\), dpkg \(iF\)"):
        parse_installed("iU  udev 257\nii  apt 3\niF  dpkg 1\n")


def test_cloud_init_looks_at_the_boot_partition_and_nowhere_else() -> None:
    config = yaml.safe_load((DATA_DIR / "rootfs/etc/cloud/cloud.cfg.d/90_bramble.cfg").read_text())
    assert config["datasource_list"] == ["NoCloud", "None"]
    assert config["datasource"]["NoCloud"]["seedfrom"] == "file:///boot/firmware/"
    assert config["system_info"]["network"]["renderers"] == ["networkd"]


def test_seed_files_of_the_boot_partition_are_what_cloud_init_reads() -> None:
    firmware = DATA_DIR / "firmware"
    assert yaml.safe_load((firmware / "meta-data").read_text())["instance-id"]
    assert (firmware / "user-data").read_text().startswith("#cloud-config\n")
    assert isinstance(yaml.safe_load((firmware / "user-data").read_text()), dict)
    assert yaml.safe_load((firmware / "network-config").read_text()) is None


def test_config_txt_ends_under_all_so_that_lines_can_be_appended() -> None:
    lines = (DATA_DIR / "firmware/config.txt").read_text().splitlines()
    sections = [line for line in lines if line.startswith("[")]
    assert sections == ["[all]"]
    settings = [line for line in lines if line and not line.startswith(("#", "["))]
    assert {"arm_64bit=1", "kernel=kernel8.img", "initramfs initramfs8 followkernel"} <= set(settings)


def test_boot_hook_writes_the_names_that_config_txt_reads() -> None:
    hook = (DATA_DIR / "boot-files-hook").read_text()
    assert re.search(r'^put "/boot/vmlinuz-\$newest" kernel8\.img$', hook, re.MULTILINE)
    assert re.search(r'^put "/boot/initrd\.img-\$newest" initramfs8$', hook, re.MULTILINE)
