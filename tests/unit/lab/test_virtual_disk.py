from __future__ import annotations

from pathlib import Path

import pytest

from fleet.boards import DiskKind
from lab.cli import DEFAULT_DISK_BYTES, parse_disk
from lab.disk import VirtualDisk, fat_partitions
from lab.errors import LabError, UsageError


def _mbr(*partitions: tuple[int, int], signature: bytes = b"\x55\xaa") -> bytes:
    """An MBR with (type, first sector) entries."""
    table = b"".join(
        bytes(4) + bytes((kind,)) + bytes(3) + start.to_bytes(4, "little") + bytes(4)
        for kind, start in partitions
    )
    return bytes(446) + table.ljust(64, b"\0") + signature


@pytest.mark.parametrize(
    ("mbr", "offset"),
    [
        (_mbr((0x0C, 16384), (0x83, 1064960)), 16384 * 512),
        (_mbr((0x83, 2048), (0x0B, 8192)), 8192 * 512),
        (_mbr((0x83, 2048)), None),
        (_mbr((0xEE, 1)), None),
        (_mbr((0x0C, 0)), None),
        (_mbr((0x0C, 16384), signature=b"\0\0"), None),
        (bytes(512), None),
        (b"", None),
    ],
    ids=["raspios", "fat-second", "no-fat", "gpt", "no-start", "no-signature", "wiped", "empty-file"],
)
def test_the_boot_partition_is_the_first_fat_one(mbr: bytes, offset: int | None) -> None:
    assert next(iter(fat_partitions(mbr).values()), None) == offset


def _disk(path: Path, size_bytes: int = 1 << 20, kind: DiskKind = DiskKind.NVME) -> VirtualDisk:
    return VirtualDisk(kind=kind, path=path, size_bytes=size_bytes, serial="S")


def test_a_disk_is_made_once_sparse_and_kept(tmp_path: Path) -> None:
    disk = _disk(tmp_path / "new" / "d.img", 64 << 30)
    disk.create()
    assert disk.path.stat().st_size == 64 << 30
    assert disk.path.stat().st_blocks == 0
    with disk.path.open("r+b") as file:
        file.write(b"content")
    disk.create()
    with disk.path.open("rb") as file:
        assert file.read(7) == b"content"


def test_a_file_of_another_size_is_not_taken_for_the_disk(tmp_path: Path) -> None:
    (tmp_path / "d.img").write_bytes(bytes(512))
    with pytest.raises(LabError, match="has 512 bytes"):
        _disk(tmp_path / "d.img").create()


@pytest.mark.parametrize(
    ("size_bytes", "kind"), [(0, DiskKind.NVME), (513, DiskKind.USB), (3 << 20, DiskKind.SD)]
)
def test_sizes_that_qemu_can_not_emulate_are_refused(size_bytes: int, kind: DiskKind) -> None:
    with pytest.raises(LabError, match="bytes"):
        _disk(Path("d.img"), size_bytes, kind)


@pytest.mark.parametrize("serial", ["", "S" * 21, "a,b", "a b"])
def test_a_serial_that_would_break_qemus_command_line_is_refused(serial: str) -> None:
    with pytest.raises(LabError, match="no serial number"):
        VirtualDisk(kind=DiskKind.NVME, path=Path("d.img"), size_bytes=512, serial=serial)


@pytest.mark.parametrize(
    ("text", "kind", "path", "size_bytes"),
    [
        ("nvme:/x/a.img:16G", DiskKind.NVME, "/x/a.img", 16 << 30),
        ("sd:card.img:512M", DiskKind.SD, "card.img", 512 << 20),
        ("usb:/x/a:b.img", DiskKind.USB, "/x/a:b.img", DEFAULT_DISK_BYTES),
    ],
)
def test_a_disk_on_the_command_line(text: str, kind: DiskKind, path: str, size_bytes: int) -> None:
    disk = parse_disk(text)
    assert (disk.kind, disk.path, disk.size_bytes) == (kind, Path(path), size_bytes)


def test_an_existing_image_keeps_its_size(tmp_path: Path) -> None:
    (tmp_path / "d.img").write_bytes(bytes(1024))
    assert parse_disk(f"nvme:{tmp_path}/d.img").size_bytes == 1024


@pytest.mark.parametrize("text", ["floppy:/a", "nvme", "nvme:", "/a.img"])
def test_what_is_no_disk_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="is not a disk"):
        parse_disk(text)
