"""boot.img by real mkfs.vfat and mtools: the same bytes each time, and a board that boots from it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from fakes_boot_server import SERVER_IP, run_boot
from fakes_http_server import ModelWebServer

from fleet.boards import BoardModel, BootMode, MacAddress, Serial
from imagebuilder.boot_image.pack import (
    LIMIT_BYTES,
    BootImage,
    BootImageIncomplete,
    BootImageTooLarge,
    make_boot_image,
)
from imagebuilder.boot_image.select import Content
from imagebuilder.boot_image.sign import load_signing_key, make_signing_key, render_signature
from lab.bootloader.client import FIRST_PORT, NetworkBoot, make_boot
from lab.bootloader.fat import FatImage
from lab.bootloader.files import BootFiles
from lab.bootloader.profile import PI4_2023, PI5_2025, BoardIdentity, EepromProfile
from lab.bootloader.settings import EepromSettings
from lab.bootloader.signature import RsaPublicKey

pytestmark = pytest.mark.integration

SERIAL = Serial.parse("10000000d03114aa")


def _files(tmp_path: Path) -> dict[str, Content]:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(bytes(range(256)) * 5000)
    return {
        "config.txt": b"kernel=kernel8.img\ninitramfs installer.img followkernel\n",
        "cmdline.txt": b"bramble.intent=1\n",
        "kernel8.img": kernel,
        "installer.img": b"initramfs" * 1000,
        "start4.elf": b"firmware",
        "bcm2711-rpi-4-b.dtb": b"dtb",
        "bcm2712-rpi-5-b.dtb": b"dtb",
        "overlays/a-name-that-is-long-enough-for-three-entries.dtbo": b"overlay",
        "deep/er/file": b"deep",
        "empty": b"",
    }


def test_the_same_files_give_the_same_bytes_whatever_the_clock_says(tmp_path: Path) -> None:
    files = _files(tmp_path)
    first = make_boot_image(files, BoardModel.PI5, tmp_path / "one" / "boot.img")
    past = time.time() - 86400
    os.utime(tmp_path / "kernel", (past, past))
    second = make_boot_image(dict(reversed(files.items())), BoardModel.PI5, tmp_path / "two" / "boot.img")

    assert first.sha256 == second.sha256
    assert (tmp_path / "one" / "boot.img").read_bytes() == (tmp_path / "two" / "boot.img").read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["boot.img"]


def test_another_reader_finds_every_file(tmp_path: Path) -> None:
    files = _files(tmp_path)
    made = make_boot_image(files, BoardModel.PI5, tmp_path / "boot.img")
    volume = FatImage(made.path.read_bytes())
    assert volume.kind == 32
    for name, content in files.items():
        assert volume.read(name) == (content if isinstance(content, bytes) else content.read_bytes())
    assert volume.read("overlays/none") is None


@pytest.mark.parametrize(
    ("profile", "model"), [(PI4_2023, BoardModel.PI4), (PI5_2025, BoardModel.PI5)], ids=["pi4", "pi5"]
)
def test_a_board_boots_the_signed_image_over_http(
    tmp_path: Path, profile: EepromProfile, model: BoardModel
) -> None:
    make_signing_key(tmp_path / "key.pem")
    key = load_signing_key(tmp_path / "key.pem")
    made = make_boot_image(_files(tmp_path), model, tmp_path / "boot.img")
    server = ModelWebServer(
        {
            "/boot/d03114aa/boot.img": made.path.read_bytes(),
            "/boot/d03114aa/boot.sig": render_signature(made.sha256, 1, key).encode(),
        },
        port=7080,
    )
    settings = EepromSettings(http_host=str(SERVER_IP), http_port=7080, http_path="boot/d03114aa")
    board = BoardIdentity(
        model=model,
        serial=SERIAL,
        mac=MacAddress.parse("2c:cf:67:12:34:56"),
        revision=model.revision_codes[-1],
    )
    numbers = key.public_key().public_numbers()
    used = profile.with_settings(settings)
    boot = make_boot(board, used, BootMode.HTTP, public_key=RsaPublicKey(numbers.n, numbers.e))
    machine = NetworkBoot(board, used, xid=7, first_port=FIRST_PORT, now=0.0, boot=boot)
    run_boot(machine, server)

    assert isinstance(machine.outcome, BootFiles)
    assert machine.outcome.cmdline == "bramble.intent=1"
    assert machine.outcome.initramfs == b"initramfs" * 1000


def test_an_image_above_the_limit_is_refused_before_it_is_written(tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(LIMIT_BYTES)
    files = _files(tmp_path) | {"installer.img": large}
    with pytest.raises(BootImageTooLarge, match=r"boot\.img would have 13\d MiB.*installer\.img 128 MiB"):
        make_boot_image(files, BoardModel.PI5, tmp_path / "boot.img")
    assert not (tmp_path / "boot.img").exists()


def test_files_without_which_a_board_does_not_start_are_named(tmp_path: Path) -> None:
    with pytest.raises(BootImageIncomplete, match=r"start4\.elf, a kernel, bcm2711-rpi-4-b\.dtb missing"):
        make_boot_image({"config.txt": b""}, BoardModel.PI4, tmp_path / "boot.img")


def test_an_old_image_stays_where_a_new_one_can_not_be_made(tmp_path: Path) -> None:
    target = tmp_path / "boot.img"
    make_boot_image(_files(tmp_path), BoardModel.PI5, target)
    before = target.stat().st_ino
    files = _files(tmp_path) | {"gone.bin": tmp_path / "gone"}
    with pytest.raises(FileNotFoundError):
        make_boot_image(files, BoardModel.PI5, target)
    assert target.stat().st_ino == before


def test_a_person_is_told_when_old_bootloaders_will_not_take_it() -> None:
    def image(mib: int) -> BootImage:
        return BootImage(Path("boot.img"), mib << 20, "", 1)

    assert image(96).warning == ""
    assert "2022-03-10" in image(97).warning
