"""config.txt: the block of ours, at its end, for the boards that need it."""

from __future__ import annotations

import pytest
from fakes_facts import make_context, make_facts, make_fake_disk
from fakes_systems import make_kernel

from fleet.boards import BoardModel
from fleet.spec.model import KernelPages
from imagebuilder.disk.edits import PutBootFile
from imagebuilder.errors import NotUnderstood
from imagebuilder.inspect.config_txt import evaluate
from imagebuilder.steps.config_txt import ConfigTxtStep, edit_config, stand_in_sections

SECTION = {"cm5": ("os_check=0",)}


def edited(name: str, pages: KernelPages = KernelPages.FOUR_K, config: str | None = None) -> str:
    disk = make_fake_disk(name)
    if config is not None:
        disk.boot["config.txt"] = config.encode()
    (edit,) = ConfigTxtStep(pages).edits(make_context(name, disk))
    assert isinstance(edit, PutBootFile)
    return edit.content.decode()


def test_a_pi_5_gets_the_kernel_with_small_pages_and_its_initramfs() -> None:
    text = edited("raspios-trixie")
    five, four = evaluate(text, BoardModel.PI5), evaluate(text, BoardModel.PI4)
    assert (five.values["kernel"], five.initramfs) == ("kernel8.img", "initramfs8")
    assert ("kernel" in four.values, four.initramfs) == (False, None)
    assert "16 KiB" in text, "the reason stands next to the setting"
    assert evaluate(text, BoardModel.CM5).values["kernel"] == "kernel8.img"


def test_stock_pages_leave_config_txt_as_it_is() -> None:
    assert (
        edited("raspios-trixie", KernelPages.STOCK).encode()
        == make_fake_disk("raspios-trixie").boot["config.txt"]
    )


def test_one_kernel_with_small_pages_needs_nothing() -> None:
    for name in ("ubuntu", "ubuntu-ab"):
        assert edited(name).encode() == make_fake_disk(name).boot["config.txt"]


def test_no_kernel_with_small_pages_is_an_error_that_names_the_way_out() -> None:
    disk = make_fake_disk("raspios-trixie")
    disk.boot["kernel8.img"] = make_kernel(page_code=2)
    with pytest.raises(NotUnderstood, match=r"image\.pages: stock"):
        ConfigTxtStep().edits(make_context("raspios-trixie", disk))


@pytest.mark.parametrize(
    "config",
    [
        "[cm5]\nkernel=mine\n",
        "[none]\n",
        "[pi4]\narm_64bit=1",
        "[all]\r\narm_64bit=1\r\nauto_initramfs=1\r\n[pi5]\r\nkernel=kernel_2712.img\r\n",
    ],
    ids=["open section of a board", "open section of none", "no line end", "CRLF and a kernel named before"],
)
def test_the_block_is_heard_whatever_section_the_file_ends_in(config: str) -> None:
    text = edited("raspios-trixie", config=config)
    assert evaluate(text, BoardModel.PI500).values["kernel"] == "kernel8.img"
    assert evaluate(f"{text}appended=1\n", BoardModel.CM4).values["appended"] == "1"
    assert ("\r\n" in text) == ("\r\n" in config)
    assert "\n" not in text.replace("\r\n", "") or "\r\n" not in config


def test_doing_it_twice_or_with_nothing_left_to_say_leaves_one_block_or_none() -> None:
    once = edit_config("arm_64bit=1\n[all]\n", SECTION)
    assert edit_config(once, SECTION) == once
    assert edit_config(once, {}).rstrip("\n") == "arm_64bit=1\n[all]"


def test_bytes_that_are_no_utf_8_survive() -> None:
    disk = make_fake_disk("raspios-trixie")
    disk.boot["config.txt"] = b"# na\xefve\n" + disk.boot["config.txt"]
    (edit,) = ConfigTxtStep().edits(make_context("raspios-trixie", disk))
    assert isinstance(edit, PutBootFile)
    assert edit.content.startswith(b"# na\xefve\n")


def test_debians_trees_need_sections_for_the_siblings_of_the_pi_5_only() -> None:
    disk = make_fake_disk("debian")
    for name in ("bcm2711-rpi-400.dtb", "bcm2711-rpi-cm4-io.dtb"):
        disk.boot[name] = b""
    sections = stand_in_sections(make_facts("debian", disk))
    assert sorted(sections) == ["cm5", "pi500"], "a CM4 with the Pi 4's tree finds no Ethernet PHY"
    settings = evaluate(edit_config("", sections), BoardModel.CM5_LITE)
    assert settings.values["device_tree"] == "bcm2712-rpi-5-b.dtb"
    assert not settings.flag("os_check", default=True)


def test_without_a_tree_to_stand_in_nothing_is_promised() -> None:
    disk = make_fake_disk("debian")
    del disk.boot["bcm2712-rpi-5-b.dtb"]
    assert not {"cm5", "pi500"} & set(stand_in_sections(make_facts("debian", disk)))
