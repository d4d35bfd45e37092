"""What boards would load, by config.txt, and what a kernel file tells."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Mapping

import pytest
import zstandard
from fakes_systems import SYSTEMS, TREES, make_elf, make_kernel

from fleet.boards import BoardModel
from imagebuilder.inspect.boards import BootFiles, describe_board
from imagebuilder.inspect.config_txt import evaluate
from imagebuilder.inspect.facts import KernelFacts
from imagebuilder.inspect.kernel import KernelError, parse_kernel


def boot_files(files: Mapping[str, bytes]) -> BootFiles:
    def kernel(path: str) -> KernelFacts | None:
        found = parse_kernel(files[path], path)
        return KernelFacts(path=path, version=found.version, page_bytes=found.page_bytes, size_bytes=1)

    return BootFiles(
        config=files["config.txt"].decode(),
        exists=files.__contains__,
        read=lambda path: files[path].decode() if path in files else None,
        kernel=kernel,
    )


def test_raspios_gives_each_family_its_kernel_and_pages() -> None:
    files = boot_files(SYSTEMS["raspios-trixie"].boot)
    four, five = describe_board(files, BoardModel.PI4), describe_board(files, BoardModel.CM5)
    assert (four.kernel, four.initramfs, four.page_bytes) == ("kernel8.img", "initramfs8", 4096)
    assert (five.kernel, five.initramfs, five.page_bytes) == ("kernel_2712.img", "initramfs_2712", 16384)
    assert five.device_tree == "bcm2712-rpi-cm5-cm5io.dtb"
    assert five.problem is None


def test_os_prefix_holds_in_an_ordinary_boot_and_in_tryboot_only_where_files_are() -> None:
    files = dict(SYSTEMS["ubuntu-ab"].boot)
    found = describe_board(boot_files(files), BoardModel.PI5)
    assert (found.os_prefix, found.kernel) == ("current/", "current/vmlinuz")
    assert (found.initramfs, found.cmdline) == ("current/initrd.img", "current/cmdline.txt")
    files |= {path.replace("current/", "new/"): data for path, data in files.items() if "current/" in path}
    tried = describe_board(boot_files(files), BoardModel.PI5, tryboot=True)
    assert (tried.os_prefix, tried.cmdline) == ("new/", "new/cmdline.txt")
    without = {path: data for path, data in files.items() if not path.startswith("current/")}
    lost = describe_board(boot_files(without), BoardModel.PI5)
    assert lost.os_prefix == ""
    assert lost.problem == "no kernel: looked for vmlinuz"


def test_a_missing_device_tree_stops_a_pi_5_unless_the_check_is_off() -> None:
    files = {"config.txt": b"", "kernel8.img": make_kernel(), "cmdline.txt": b""}
    assert "no device tree" in (describe_board(boot_files(files), BoardModel.PI5).problem or "")
    files["config.txt"] = b"[pi5]\nos_check=0\n"
    assert describe_board(boot_files(files), BoardModel.PI5).problem is None
    assert "no device tree" in (describe_board(boot_files(files), BoardModel.PI4).problem or "")


def test_a_named_initramfs_that_is_missing_is_a_problem() -> None:
    files = {"config.txt": b"initramfs gone followkernel\n", "kernel8.img": make_kernel(), **TREES}
    assert "initramfs gone" in (describe_board(boot_files(files), BoardModel.PI4).problem or "")


@pytest.mark.parametrize(
    ("text", "model", "kernel"),
    [
        ("kernel=a\nkernel=b\n", BoardModel.PI4, "b"),
        ("[pi5]\nkernel=b\n[all]\n", BoardModel.PI4, None),
        ("[pi5]\nkernel=b\n", BoardModel.CM5_LITE, "b"),
        ("[pi4]\n[none]\nkernel=b\n", BoardModel.PI4, None),
        ("[pi5]\n[all]\nkernel=b\n", BoardModel.PI4, "b"),
        ("[tryboot]\nkernel=b\n[pi4]\nkernel=c\n", BoardModel.PI4, None),
        ("[board-type=0x14]\nkernel=b\n", BoardModel.CM4, "b"),
        ("[cm5]\r\nkernel=b\r\n", BoardModel.CM5, "b"),
        ("\ufeffkernel=b\n", BoardModel.PI4, "b"),
        ("#kernel=b\nKERNEL = c \n", BoardModel.PI4, "c"),
        (f"{'x' * 98}kernel=b\nkernel", BoardModel.PI4, None),
        ("[0x1234abcd]\nkernel=b\n", BoardModel.PI4, None),
        ("include more.txt\n", BoardModel.PI4, "from more"),
        ("include more.txt\n", BoardModel.PI5, None),
        ("include loop.txt\nkernel=b\n", BoardModel.PI4, "b"),
    ],
)
def test_filters_and_includes(text: str, model: BoardModel, kernel: str | None) -> None:
    others = {"more.txt": "kernel=from more\n", "loop.txt": "include loop.txt\n"}
    assert evaluate(text, model, read=others.get).values.get("kernel") == kernel


def zboot(kernel: bytes, method: str) -> bytes:
    packed = gzip.compress(kernel, mtime=0) if method == "gzip" else zstandard.compress(kernel)
    header = b"MZ\0\0zimg" + struct.pack("<II", 64, len(packed)) + bytes(8) + method.encode().ljust(32, b"\0")
    return header.ljust(64, b"\0") + packed


@pytest.mark.parametrize(
    "wrap",
    [bytes, gzip.compress, lambda data: zboot(data, "gzip"), lambda data: zboot(data, "zstd")],
    ids=["plain", "gzip", "zboot gzip", "zboot zstd"],
)
@pytest.mark.parametrize(("code", "pages"), [(1, 4096), (2, 16384), (3, 65536), (0, None)])
def test_kernels_tell_version_and_page_size(wrap: type[bytes], code: int, pages: int | None) -> None:
    found = parse_kernel(wrap(make_kernel("6.12.47+rpt-rpi-2712", page_code=code)), "kernel")
    assert (found.version, found.page_bytes) == ("6.12.47+rpt-rpi-2712", pages)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no 64-bit ARM kernel"),
        (make_elf(), "no 64-bit ARM kernel"),
        (gzip.compress(make_kernel(), mtime=0)[:-20], "cut short"),
        (b"\x1f\x8b" + bytes(100), "does not unpack"),
        (zboot(make_kernel(), "lzma"), "compressed with 'lzma'"),
        (gzip.compress(b"text", mtime=0), "no 64-bit ARM kernel"),
    ],
    ids=["empty", "program", "cut gzip", "garbage gzip", "other method", "packed text"],
)
def test_what_is_no_kernel_is_named(data: bytes, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        parse_kernel(data, "kernel8.img")
