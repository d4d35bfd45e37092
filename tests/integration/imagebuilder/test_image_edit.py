"""Editing with the real tools: what is written is there, and what cannot be written is said before anything
is."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from pathlib import Path

import pytest
from fakes_image import is_same, make_disk
from fakes_systems import SIGNATURE

from imagebuilder.disk.edit import DiskImage, ImageFull
from imagebuilder.disk.edits import EPOCH, Edit, PutBootFile, PutDirectory, PutFile, PutLink
from imagebuilder.disk.ext4 import Ext4Volume
from imagebuilder.disk.fat import FatVolume
from imagebuilder.disk.source import open_source
from imagebuilder.disk.sparse import copy_sparse
from imagebuilder.errors import CommandFailed, ImageBuilderError

pytestmark = pytest.mark.integration

HUGE_FILE = 0x40000
"""EXT4_HUGE_FILE_FL: this inode's i_blocks is in blocks of the filesystem."""

XATTRS = {
    "security.capability": bytes.fromhex("0100000200200000000000000000000000000000"),
    "user.long": b"x" * 900,  # too long for the inode: a block of its own
}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_disk(tmp_path_factory.mktemp("pristine") / "disk.img")


@pytest.fixture
def disk(pristine: Path, tmp_path: Path) -> DiskImage:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    copy_sparse(pristine, tmp_path / "disk.img")
    return DiskImage(tmp_path / "disk.img", scratch)


def test_files_links_and_directories_get_content_mode_and_owner(disk: DiskImage, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(5_000_001))
    written = disk.put_root(
        [
            PutFile(path="/usr/local/bin/k3s", content=big, mode=0o755),
            PutLink(path="/usr/local/bin/kubectl", target="k3s"),
            PutFile(path="/etc/bramble/deep/er/secret", content=b"x" * 8192, mode=0o600, uid=1000, gid=1001),
            PutDirectory(path="/var/lib/with space", mode=0o700, uid=70_000, gid=70_001),
            PutFile(path="/etc/hostname", content=b"replaced\n"),
            PutFile(path="/etc/empty", content=b""),
            PutFile(path="/usr/bin/ping", content=b"ping", xattrs=XATTRS),
        ]
    )
    assert [(line.path, line.replaced) for line in written] == [
        ("/usr/local/bin/k3s", False),
        ("/usr/local/bin/kubectl", False),
        ("/etc/bramble/deep/er/secret", False),
        ("/var/lib/with space", False),
        ("/etc/hostname", True),
        ("/etc/empty", False),
        ("/usr/bin/ping", False),
    ]
    assert written[0].sha256 == hashlib.sha256(big.read_bytes()).hexdigest()
    with open_source(disk.path) as source:
        root = Ext4Volume(source, disk.mbr().partition(2).offset)
        secret = root.require("/etc/bramble/deep/er/secret")
        assert (secret.mode, secret.uid, secret.gid) == (stat.S_IFREG | 0o600, 1000, 1001)
        spaced = root.require("/var/lib/with space")
        assert (spaced.mode, spaced.uid, spaced.gid) == (stat.S_IFDIR | 0o700, 70_000, 70_001)
        assert root.read("/usr/local/bin/kubectl") == big.read_bytes()
        assert root.read("/etc/hostname") == b"replaced\n"
        assert root.attributes(root.require("/usr/bin/ping")) == XATTRS
    disk.check()


def test_a_path_through_a_link_lands_behind_the_link(disk: DiskImage) -> None:
    disk.put_root([PutFile(path="/lib/systemd/system/new.service", content=b"[Unit]\n")])
    with open_source(disk.path) as source:
        root = Ext4Volume(source, disk.mbr().partition(2).offset)
        link = root.find("/lib", follow=False)
        assert link is not None
        assert link.is_symlink
        assert root.canonical("/lib/systemd/system/new.service") == "/usr/lib/systemd/system/new.service"
    disk.check()


def test_boot_files_are_replaced_and_created_in_folders(disk: DiskImage) -> None:
    disk.put_boot(
        [
            PutBootFile(path="/cmdline.txt", content=b"quiet\n"),
            PutBootFile(path="/user-data", content=b"#cloud-config\n" * 100),
            PutBootFile(path="/overlays/A Mixed Case Name.dtbo", content=b"\0\1"),
        ]
    )
    with open_source(disk.path) as source:
        fat = FatVolume(source, disk.mbr().partition(1).offset)
        names = {entry.path for entry in fat.walk()}
        assert {"/cmdline.txt", "/user-data", "/overlays/A Mixed Case Name.dtbo", "/kernel8.img"} <= names
        assert fat.read("/CMDLINE.TXT") == b"quiet\n"
        assert fat.read("/overlays/a long file name.dtbo") == b"overlay"
    disk.check()


def test_growing_keeps_every_byte_and_makes_the_room(disk: DiskImage) -> None:
    with open_source(disk.path) as source:
        before = Ext4Volume(source, disk.mbr().partition(2).offset).read("/usr/bin/scattered")
    disk.grow_root(500 * 2**20)
    with open_source(disk.path) as source:
        root = Ext4Volume(source, disk.mbr().partition(2).offset)
        assert root.free_bytes >= 500 * 2**20
        assert root.read("/usr/bin/scattered") == before
        assert root.superblock.size_bytes == disk.mbr().partition(2).size_bytes
    assert disk.size_bytes == disk.mbr().partition(2).offset + disk.mbr().partition(2).size_bytes
    assert disk.mbr().signature == SIGNATURE
    disk.check()


def test_growing_to_less_than_there_is_changes_nothing(disk: DiskImage, pristine: Path) -> None:
    disk.grow_root(1)
    assert is_same(disk.path, pristine)


def test_a_file_that_does_not_fit_is_refused_before_writing(
    disk: DiskImage, pristine: Path, tmp_path: Path
) -> None:
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(200 * 2**20)
    with pytest.raises(ImageFull) as caught:
        disk.put_root([PutFile(path="/huge", content=huge)])
    assert caught.value.needed_bytes >= 200 * 2**20 > caught.value.available_bytes
    with pytest.raises(ImageFull, match="boot partition"):
        disk.put_boot([PutBootFile(path="/huge", content=bytes(60 * 2**20))])
    assert is_same(disk.path, pristine)


def test_debugfs_complaints_are_errors_although_it_exits_0(
    disk: DiskImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With the sum of needed bytes out of the way, debugfs itself runs into the full filesystem.
    monkeypatch.setattr("imagebuilder.disk.edit.needed_bytes", lambda edits, block_bytes: 0)
    huge = tmp_path / "huge"
    huge.write_bytes(os.urandom(110 * 2**20))
    with pytest.raises(CommandFailed, match="allocate block") as caught:
        disk.put_root([PutFile(path="/huge", content=huge)])
    assert caught.value.returncode == 0


def test_the_same_edits_give_the_same_bytes(pristine: Path, tmp_path: Path) -> None:
    images = []
    for number in (1, 2):
        work = tmp_path / str(number)
        (work / "scratch").mkdir(parents=True)
        copy_sparse(pristine, work / "disk.img")
        disk = DiskImage(work / "disk.img", work / "scratch")
        disk.grow_root(200 * 2**20)
        disk.put_boot([PutBootFile(path="/user-data", content=b"same\n")])
        disk.put_root([PutFile(path="/etc/a/b", content=b"same\n"), PutLink(path="/etc/l", target="a")])
        images.append(disk.path)
        with open_source(disk.path) as source:
            superblock = source.read_at(disk.mbr().partition(2).offset + 1024, 1024)
        written, checked = (
            struct.unpack_from("<I", superblock, 0x30),
            struct.unpack_from("<I", superblock, 0x40),
        )
        assert written == checked == (EPOCH,), "the time of the build is in the image"
    assert is_same(*images)


@pytest.mark.parametrize(
    "edit",
    [
        PutFile(path="/etc/../passwd", content=b""),
        PutFile(path="relative", content=b""),
        PutFile(path='/etc/"quoted"', content=b""),
        PutFile(path="/etc/line\nbreak", content=b""),
        PutLink(path="/etc/link", target='x"\nrm /etc/fstab'),
        PutFile(path="/etc", content=b""),
    ],
    ids=lambda edit: repr(edit.path),
)
def test_what_debugfs_could_misread_is_refused(disk: DiskImage, pristine: Path, edit: Edit) -> None:
    assert not isinstance(edit, PutBootFile)
    with pytest.raises(ImageBuilderError):
        disk.put_root([edit])
    assert is_same(disk.path, pristine)


def test_inodes_that_count_in_filesystem_blocks_are_read_and_replaced(tmp_path: Path) -> None:
    """With huge_file an inode may give its i_blocks in blocks of the filesystem instead of 512 bytes: the
    kernel does so from 2 TiB on, and nothing that we read or write depends on the field."""
    (tmp_path / "scratch").mkdir()
    disk = DiskImage(make_disk(tmp_path / "disk.img", features="huge_file,64bit"), tmp_path / "scratch")
    content = disk.read_root("/usr/bin/scattered")
    with open_source(disk.path) as source:
        root = disk.mbr().partition(2)
        volume = Ext4Volume(source, root.offset)
        assert "huge_file" in volume.superblock.features
        inode = volume.require("/usr/bin/scattered")
        blocks = -(-inode.size_bytes // 4096)
    disk.edit_root(
        [
            f'sif "/usr/bin/scattered" flags {inode.flags | HUGE_FILE:#x}',
            f'sif "/usr/bin/scattered" blocks {blocks}',
        ]
    )
    disk.check()  # e2fsck counts again, and finds that it is right
    with open_source(disk.path) as source:
        volume = Ext4Volume(source, root.offset)
        assert volume.require("/usr/bin/scattered").flags & HUGE_FILE
        assert volume.read("/usr/bin/scattered") == content
        assert sum(length for _, length in volume.extents("/usr/bin/scattered")) == inode.size_bytes
        free = volume.free_bytes
    disk.grow_root(free + 2**20)
    disk.put_root([PutFile(path="/usr/bin/scattered", content=b"short")])
    disk.check()
    with open_source(disk.path) as source:
        assert Ext4Volume(source, root.offset).free_bytes >= free + blocks * 4096 - 4096


@pytest.mark.parametrize(
    "features", ["64bit,metadata_csum", "^metadata_csum,uninit_bg,^64bit", "^64bit,^flex_bg"]
)
def test_other_feature_sets_are_read_the_same(tmp_path: Path, features: str) -> None:
    (tmp_path / "scratch").mkdir()
    disk = DiskImage(make_disk(tmp_path / "disk.img", features=features), tmp_path / "scratch")
    assert disk.read_root("/etc/hostname") == b"raspberrypi\n"
    assert len(disk.read_root("/usr/bin/scattered") or b"") == 3_000_000
    disk.check()
