"""Boot partitions with what years of cameras, Windows and power cuts leave on a FAT."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from fakes_image import BOOT_START_LBA, is_same, make_disk
from fakes_systems import SYSTEMS

from imagebuilder.disk.edit import DiskImage
from imagebuilder.disk.edits import PutBootFile
from imagebuilder.disk.fat import FatVolume
from imagebuilder.disk.source import open_source
from imagebuilder.disk.sparse import copy_sparse
from imagebuilder.errors import ImageBuilderError, NotUnderstood
from imagebuilder.inspect import inspect_image
from imagebuilder.runner import run

pytestmark = pytest.mark.integration

BOOT = BOOT_START_LBA * 512


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_disk(tmp_path_factory.mktemp("pristine") / "disk.img", system=SYSTEMS["raspios-trixie"])


@pytest.fixture
def disk(pristine: Path, tmp_path: Path) -> DiskImage:
    (tmp_path / "scratch").mkdir()
    copy_sparse(pristine, tmp_path / "disk.img")
    return DiskImage(tmp_path / "disk.img", tmp_path / "scratch")


def drive(disk: DiskImage) -> str:
    return f"{disk.path}@@{BOOT}"


def volume(disk: DiskImage) -> tuple[int, int, int]:
    """Offsets of the first FAT and of the data, and bytes of a FAT."""
    with open_source(disk.path) as source:
        fat = FatVolume(source, BOOT)
        return fat.fat_offset, fat.data_offset, fat.fat_bytes


def poke(disk: DiskImage, offset: int, data: bytes) -> None:
    with disk.path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def names(disk: DiskImage) -> list[str]:
    with open_source(disk.path) as source:
        return [entry.path for entry in FatVolume(source, BOOT).walk()]


def test_a_read_only_hidden_system_file_is_replaced(disk: DiskImage) -> None:
    run(["mattrib", "+r", "+h", "+s", "-i", drive(disk), "::/cmdline.txt"])
    disk.put_boot([PutBootFile(path="/cmdline.txt", content=b"new\n")])
    assert disk.read_boot("/cmdline.txt") == b"new\n"
    disk.check()


def test_a_name_in_capitals_is_the_same_file(disk: DiskImage) -> None:
    run(["mren", "-i", drive(disk), "::/cmdline.txt", "::/other.txt"])
    run(["mren", "-i", drive(disk), "::/other.txt", "::/CMDLINE.TXT"])
    disk.put_boot([PutBootFile(path="/cmdline.txt", content=b"new\n")])
    found = [name for name in names(disk) if name.casefold() == "/cmdline.txt"]
    assert len(found) == 1
    assert disk.read_boot("/cmdline.txt") == b"new\n"
    disk.check()


def test_a_full_root_directory_grows_by_clusters(disk: DiskImage) -> None:
    files = [PutBootFile(path=f"/a rather long name, number {n:03}.txt", content=b"x") for n in range(200)]
    disk.put_boot(files)
    assert {edit.path for edit in files} <= set(names(disk))
    disk.check()


@pytest.mark.parametrize("count", [0, 0xFFFF_FFFF, 5], ids=["none free", "unknown", "a lie"])
def test_a_free_count_that_lies_does_not_decide(disk: DiskImage, count: int) -> None:
    poke(disk, BOOT + 512 + 488, struct.pack("<II", count, 0xFFFF_FFFF))
    disk.put_boot([PutBootFile(path="/user-data", content=b"y" * 100_000)])
    assert disk.read_boot("/user-data") == b"y" * 100_000
    disk.check()


def test_a_long_name_whose_checksum_is_wrong_belongs_to_nobody(disk: DiskImage) -> None:
    disk.put_boot([PutBootFile(path="/a long file name.txt", content=b"long")])
    _, data, _ = volume(disk)
    with disk.path.open("rb") as file:
        file.seek(data)
        root = file.read(512 * 400)
    entry = root.index(b"ALONGF~1TXT") - 32
    poke(disk, data + entry + 13, bytes([root[entry + 13] ^ 0xFF]))
    found = names(disk)
    assert "/a long file name.txt" not in found
    assert "/ALONGF~1.TXT" in found


def first_cluster(disk: DiskImage, path: str) -> int:
    with open_source(disk.path) as source:
        entry = FatVolume(source, BOOT).find(path)
        assert entry is not None
        return entry.first_cluster


def set_chain(disk: DiskImage, cluster: int, following: int) -> None:
    fat, _, size = volume(disk)
    for copy in (0, 1):
        poke(disk, fat + copy * size + cluster * 4, struct.pack("<I", following))


@pytest.mark.parametrize(
    ("following", "message"),
    [
        (lambda disk: first_cluster(disk, "/kernel8.img"), "is a loop"),
        (lambda disk: 0x0FFF_FFF7, "leads to cluster 268435447"),
        (lambda disk: 0, "leads to cluster 0"),
        (lambda disk: 0x0FFF_FFFF, "bytes shorter than its size"),
    ],
    ids=["loop", "bad cluster", "free cluster", "cut short"],
)
def test_a_broken_chain_is_named_with_its_file(disk: DiskImage, following: object, message: str) -> None:
    assert callable(following)
    set_chain(disk, first_cluster(disk, "/kernel8.img") + 1, following(disk))
    with pytest.raises(NotUnderstood, match=message) as caught:
        inspect_image(disk.path)
    assert "/kernel8.img" in caught.value.message


def test_files_that_share_clusters_are_named(disk: DiskImage) -> None:
    set_chain(disk, first_cluster(disk, "/initramfs8"), first_cluster(disk, "/kernel8.img") + 1)
    faults = inspect_image(disk.path).boot.faults
    assert any("shares clusters with another file" in fault for fault in faults)


def test_a_write_that_cannot_be_finished_leaves_the_old_file(disk: DiskImage, pristine: Path) -> None:
    with pytest.raises(ImageBuilderError, match="boot partition has"):
        disk.put_boot(
            [
                PutBootFile(path="/cmdline.txt", content=b"new\n"),
                PutBootFile(path="/huge", content=bytes(45 * 2**20)),
            ]
        )
    assert is_same(disk.path, pristine)
