from __future__ import annotations

from collections.abc import Mapping

import pytest

from fleet.boards import BoardModel, BootMode, MacAddress, Serial
from lab.bootloader.files import (
    BoardStuckError,
    BootFiles,
    FoundFile,
    ModeFailedError,
    automatic_initramfs,
    read_all,
)
from lab.bootloader.loader import load_files
from lab.bootloader.profile import BoardIdentity

S = "91cdf03d"


def _board(model: BoardModel, revision: int | None = None) -> BoardIdentity:
    return BoardIdentity(
        model=model,
        serial=Serial.parse(f"10000000{S}"),
        mac=MacAddress.parse("e4:5f:01:09:02:f7"),
        revision=revision or model.revision_codes[-1],
    )


def _boot(
    files: Mapping[str, bytes], board: BoardIdentity, source: BootMode = BootMode.NETWORK
) -> tuple[list[str], BootFiles | Exception]:
    """Requests in order (a probe with a question mark), and how it ended."""
    requests: list[str] = []
    loader = load_files(board, source)
    try:
        request = next(loader)
        while True:
            requests.append(request.name + "?" * request.probe)
            data = files.get(request.name)
            request = loader.send(None if data is None else FoundFile(len(data), data))
    except StopIteration as stop:
        return requests, stop.value
    except (ModeFailedError, BoardStuckError) as error:
        return requests, error


PI5_FILES = {
    "config.txt": b"kernel=kernel8.img\nauto_initramfs=1\ndtoverlay=vc4-kms-v3d-pi5\n",
    "bcm2712-rpi-5-b.dtb": b"dtb",
    "kernel8.img": b"kernel",
    "initramfs8": b"initramfs",
    "overlays/vc4-kms-v3d-pi5.dtbo": b"overlay",
    "cmdline.txt": b"console=serial0,115200 root=/dev/ram0\nsecond line\n",
}
PI4_FILES = {
    "start4.elf": b"firmware",
    "fixup4.dat": b"fixup",
    "config.txt": b"initramfs initrd followkernel\n",
    "bcm2711-rpi-4-b.dtb": b"dtb",
    "kernel8.img": b"kernel",
    "initrd": b"initramfs",
    "cmdline.txt": b"quiet",
}


def _under(prefix: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {prefix + name: data for name, data in files.items()}


def test_pi_5_without_a_directory_of_its_own_asks_at_the_root() -> None:
    requests, end = _boot(PI5_FILES, _board(BoardModel.PI5))

    assert requests == [
        f"{S}/config.txt?",
        "config.txt",
        "pieeprom.sig",
        "bcm2712-rpi-5-b.dtb",
        "config.txt",
        "kernel8.img?",
        "initramfs8",
        "bcm2712-rpi-5-b.dtb",
        "overlays/overlay_map.dtb",
        "overlays/vc4-kms-v3d-pi5.dtbo?",
        "overlays/vc4-kms-v3d-pi5.dtbo",
        "cmdline.txt",
        "armstub8-2712.bin",
        "kernel8.img",
    ]
    assert isinstance(end, BootFiles)
    assert end.kernel == b"kernel"
    assert end.initramfs == b"initramfs"
    assert end.cmdline == "console=serial0,115200 root=/dev/ram0"
    assert end.dtb_name == "bcm2712-rpi-5-b.dtb"
    assert end.source is BootMode.NETWORK


def test_later_requests_of_a_pi_5_have_two_slashes_behind_the_serial() -> None:
    files = _under(f"{S}/", PI5_FILES) | _under(f"{S}//", PI5_FILES)
    requests, end = _boot(files, _board(BoardModel.PI5))

    assert requests[:4] == [
        f"{S}/config.txt?",
        f"{S}/config.txt",
        f"{S}/pieeprom.sig",
        f"{S}/bcm2712-rpi-5-b.dtb",
    ]
    assert all(name.startswith(f"{S}//") for name in requests[4:])
    assert isinstance(end, BootFiles)


def test_pi_5_prefers_the_kernel_with_large_pages_unless_told_otherwise() -> None:
    files = PI5_FILES | {
        "config.txt": b"auto_initramfs=1\n",
        "kernel_2712.img": b"16k",
        "initramfs_2712": b"i",
    }
    _, end = _boot(files, _board(BoardModel.PI5))
    assert isinstance(end, BootFiles)
    assert (end.kernel, end.initramfs_name) == (b"16k", "initramfs_2712")

    requests, end = _boot(PI5_FILES | {"config.txt": b""}, _board(BoardModel.PI5))
    assert requests[5:7] == ["kernel_2712.img?", "kernel8.img?"]
    assert isinstance(end, BootFiles)
    assert end.initramfs is None


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("config.txt", "config.txt not found"),
        ("bcm2712-rpi-5-b.dtb", "os_check"),
        ("kernel8.img", "no kernel: kernel8.img not found"),
    ],
)
def test_a_pi_5_goes_to_the_next_mode_without(missing: str, reason: str) -> None:
    files = {name: data for name, data in PI5_FILES.items() if name != missing}
    _, end = _boot(files, _board(BoardModel.PI5))
    assert isinstance(end, ModeFailedError)
    assert reason in str(end)


def test_a_cm5_wants_its_own_device_tree_unless_the_check_is_off() -> None:
    requests, end = _boot(PI5_FILES, _board(BoardModel.CM5))
    assert isinstance(end, ModeFailedError)
    assert requests[-2:] == ["bcm2712-rpi-cm5-cm5io.dtb", "bcm2712-rpi-cm5-cm4io.dtb"]

    unchecked = PI5_FILES | {"config.txt": b"os_check=0\n"}
    _, end = _boot(unchecked, _board(BoardModel.CM5))
    assert isinstance(end, BootFiles)
    assert end.dtb_name is None

    named = PI5_FILES | {"config.txt": b"device_tree=bcm2712-rpi-5-b.dtb\n"}
    _, end = _boot(named, _board(BoardModel.CM5))
    assert isinstance(end, BootFiles)
    assert end.dtb_name == "bcm2712-rpi-5-b.dtb"


def test_pi_4_asks_first_for_its_firmware_and_then_for_the_rest() -> None:
    requests, end = _boot(_under(f"{S}/", PI4_FILES), _board(BoardModel.PI4, 0xD03114))

    assert requests == [
        f"{S}/{name}"
        for name in (
            "start4.elf?",
            *("config.txt", "pieeprom.sig", "recover4.elf", "recovery.elf", "start4.elf", "fixup4.dat"),
            *("recovery.elf", "config.txt?", "config.txt", "dt-blob.bin", "bootcfg.txt", "initrd"),
            *("bcm2711-rpi-4-b.dtb?", "bcm2711-rpi-4-b.dtb", "overlays/overlay_map.dtb?"),
            *("cmdline.txt", "recovery8.img", "kernel8.img?", "armstub8-gic.bin", "kernel8.img"),
        )
    ]
    assert isinstance(end, BootFiles)
    assert (end.kernel, end.initramfs, end.cmdline) == (b"kernel", b"initramfs", "quiet")


def test_pi_4_drops_the_prefix_when_neither_firmware_is_there() -> None:
    requests, end = _boot(PI4_FILES, _board(BoardModel.PI4, 0xA03111))
    assert requests[:5] == [f"{S}/start4.elf?", f"{S}/start.elf?", "config.txt", "vl805.sig", "pieeprom.sig"]
    assert isinstance(end, BootFiles)


def test_not_found_to_everything_ends_the_mode_of_both_families() -> None:
    requests, end = _boot({}, _board(BoardModel.PI4, 0xD03114))
    assert isinstance(end, ModeFailedError)
    assert requests[-1] == "start4.elf"
    requests, end = _boot({}, _board(BoardModel.PI5))
    assert isinstance(end, ModeFailedError)
    assert requests == [f"{S}/config.txt?", "config.txt"]


@pytest.mark.parametrize("name", ["start4.elf", "start.elf"])
def test_an_empty_firmware_file_sends_a_pi_4_to_the_next_mode(name: str) -> None:
    requests, end = _boot({f"{S}/{name}": b""} | PI4_FILES, _board(BoardModel.PI4))
    assert isinstance(end, ModeFailedError)
    assert requests[-1] == f"{S}/{name}?"


@pytest.mark.parametrize("missing", ["kernel8.img", "bcm2711-rpi-4-b.dtb"])
def test_a_pi_4_does_not_come_back_from_its_third_stage(missing: str) -> None:
    files = {name: data for name, data in PI4_FILES.items() if name != missing}
    _, end = _boot(files, _board(BoardModel.PI4))
    assert isinstance(end, BoardStuckError)
    assert missing in str(end)


def test_includes_are_followed_by_the_third_stage_of_a_pi_4() -> None:
    files = PI4_FILES | {"config.txt": b"include more.txt\n", "more.txt": b"cmdline=other.txt\n"}
    requests, end = _boot(files | {"other.txt": b"loud"}, _board(BoardModel.PI4))
    assert "more.txt" in requests
    assert isinstance(end, BootFiles)
    assert end.cmdline == "loud"


def test_os_prefix_goes_before_the_systems_files() -> None:
    system = ("kernel8.img", "initramfs8", "bcm2712-rpi-5-b.dtb", "cmdline.txt")
    files = {("current/" if name in system else "") + name: data for name, data in PI5_FILES.items()}
    files["config.txt"] = b"os_prefix=current/\nkernel=kernel8.img\nauto_initramfs=1\n"
    _, end = _boot(files, _board(BoardModel.PI5))
    assert isinstance(end, BootFiles)
    assert end.initramfs == b"initramfs"
    assert end.cmdline.startswith("console")


def test_an_os_prefix_without_a_kernel_behind_it_is_dropped() -> None:
    files = PI5_FILES | {"config.txt": b"upstream_kernel=1\nkernel=kernel8.img\n"}
    requests, end = _boot(files, _board(BoardModel.PI5))
    assert "upstream/kernel8.img?" in requests
    assert isinstance(end, BootFiles)
    assert end.kernel_name == "kernel8.img"


def test_a_cm4_with_an_upstream_kernel_wants_the_upstream_device_tree() -> None:
    files = PI4_FILES | {"config.txt": b"upstream_kernel=1\n", "bcm2711-rpi-cm4-io.dtb": b"dtb"}
    _, end = _boot(files, _board(BoardModel.CM4))
    assert isinstance(end, BootFiles)
    assert end.dtb_name == "bcm2711-rpi-cm4-io.dtb"


@pytest.mark.parametrize(
    ("kernel", "initramfs"),
    [
        ("kernel8.img", "initramfs8"),
        ("kernel_2712.img", "initramfs_2712"),
        ("current/kernel8.img", "current/initramfs8"),
        ("vmlinuz", None),
    ],
)
def test_the_automatic_initramfs_is_named_after_the_kernel(kernel: str, initramfs: str | None) -> None:
    assert automatic_initramfs(kernel) == initramfs


@pytest.mark.parametrize(("model", "files"), [(BoardModel.PI4, PI4_FILES), (BoardModel.PI5, PI5_FILES)])
def test_a_disk_is_read_by_the_same_code_without_a_prefix(
    model: BoardModel, files: Mapping[str, bytes]
) -> None:
    names: list[str] = []

    def read(name: str) -> bytes | None:
        names.append(name)
        return files.get(name)

    end = read_all(load_files(_board(model), BootMode.SD), read)
    assert end.kernel == b"kernel"
    assert end.source is BootMode.SD
    assert not [name for name in names if S in name or "//" in name]
    assert names.count("kernel8.img") == 1  # the probe and the read are one access to the disk
