"""What UEFI, iPXE and U-Boot get: text that they read, and programs in pieces."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from fakes_efi import make_stub

from bramble.boot_programs import EfiSources, encode_u_boot_script, make_programs, render_ipxe, render_u_boot
from fleet.boards import MacAddress

WORDS = "bramble.node=virt-1 bramble.intent=7"
MAC = MacAddress.parse("52:54:00:12:34:56")


class FakeImage:
    def __init__(self, root: Path, kernel: bytes) -> None:
        self.boot_tree = root
        self.installer_initramfs = root / "initramfs"
        (root / "kernel8.img").write_bytes(kernel)
        self.installer_initramfs.write_bytes(b"cpio")


@pytest.fixture
def image(tmp_path: Path) -> Any:
    return FakeImage(tmp_path, make_stub())


def test_texts_name_the_files_and_the_words() -> None:
    assert render_u_boot("installer.img", WORDS) == (
        "default bramble\nprompt 0\nlabel bramble\n  kernel kernel8.img\n  initrd installer.img\n"
        f"  append {WORDS}\n"
    )
    script = render_ipxe("installer.img", WORDS).splitlines()
    assert script[0] == "#!ipxe"
    assert f"kernel kernel8.img initrd=installer {WORDS} || goto later" in script


def test_a_u_boot_script_carries_both_checksums() -> None:
    data = encode_u_boot_script("echo hello\n")
    fields = struct.unpack(">7I4B32s", data[:64])
    assert fields[0] == 0x27051956
    assert fields[1] == zlib.crc32(data[:4] + bytes(4) + data[8:64])
    assert (fields[3], fields[6]) == (len(data) - 64, zlib.crc32(data[64:]))
    assert data[64:] == struct.pack(">II", 11, 0) + b"echo hello\n"


def test_every_name_is_there(image: Any, tmp_path: Path) -> None:
    stub = tmp_path / "stub"
    stub.write_bytes(make_stub())
    programs = make_programs(image, "installer.img", WORDS, EfiSources(stub=stub), MAC)
    assert set(programs.rendered) == {
        "u-boot.txt",
        "boot.scr.uimg",
        "pxelinux.cfg/default-arm",
        "pxelinux.cfg/01-52-54-00-12-34-56",
        "boot.ipxe",
    }
    pieces = programs.extra["bramble.efi"]
    assert image.boot_tree / "kernel8.img" in pieces
    assert image.installer_initramfs in pieces
    assert any(isinstance(piece, bytes) and piece.startswith(WORDS.encode()) for piece in pieces)


def test_programs_of_two_nodes_share_their_headers(image: Any, tmp_path: Path) -> None:
    stub = tmp_path / "stub"
    stub.write_bytes(make_stub())
    sources = EfiSources(stub=stub)
    one, two = (
        make_programs(image, "i", f"bramble.node={name}", sources).extra["bramble.efi"]
        for name in ("short", "a-much-longer-name")
    )
    assert one[0] is two[0]


def test_ipxe_takes_the_place_of_a_missing_or_damaged_stub(image: Any, tmp_path: Path) -> None:
    ipxe, broken = tmp_path / "ipxe.efi", tmp_path / "broken"
    broken.write_bytes(b"MZ nothing")
    for stub in (None, broken, tmp_path / "absent"):
        programs = make_programs(image, "i", WORDS, EfiSources(stub=stub, ipxe=ipxe))
        assert programs.extra == {"bramble.efi": (ipxe,)}
    assert make_programs(image, "i", WORDS, EfiSources()).extra == {}


def test_a_compressed_kernel_is_no_efi_program(tmp_path: Path) -> None:
    stub = tmp_path / "stub"
    stub.write_bytes(make_stub())
    image: Any = FakeImage(tmp_path, b"\x1f\x8b compressed")
    assert make_programs(image, "i", WORDS, EfiSources(stub=stub)).extra == {}
