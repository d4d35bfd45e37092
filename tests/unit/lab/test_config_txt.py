from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.boards import BoardModel, Serial
from lab.bootloader.config_txt import MAX_LINE_CHARS, ConfigTxt, parse_config_txt
from lab.bootloader.filters import Circumstances

SERIAL = Serial.parse("10000000d03114aa")


def _parse(text: str, model: BoardModel = BoardModel.PI5, *, tryboot: bool = False) -> ConfigTxt:
    return parse_config_txt(text.encode(), Circumstances(model=model, serial=SERIAL, tryboot=tryboot))


def test_the_last_of_a_repeated_key_holds_and_comments_do_not() -> None:
    config = _parse("kernel=a\n#kernel=b\n kernel = c \nkernel8\n")
    assert config.text("kernel") == "c"


@pytest.mark.parametrize(
    ("name", "models"),
    [
        ("pi4", {BoardModel.PI4, BoardModel.PI400, BoardModel.CM4}),
        ("pi400", {BoardModel.PI400}),
        ("cm4", {BoardModel.CM4}),
        ("pi5", {BoardModel.PI5, BoardModel.PI500, BoardModel.CM5, BoardModel.CM5_LITE}),
        ("pi500", {BoardModel.PI500}),
        ("cm5", {BoardModel.CM5, BoardModel.CM5_LITE}),
        ("pi3", set()),
        ("all", set(BoardModel)),
        ("none", set()),
        ("board-type=0x17", {BoardModel.PI5}),
        ("0xd03114aa", set(BoardModel)),
        ("0xd03114ab", set()),
        ("tryboot", set()),
        ("EDID=VSC-TD2220", set()),
        ("gpio4=1", set()),
    ],
)
def test_a_filter_holds_for_its_boards(name: str, models: set[BoardModel]) -> None:
    text = f"[{name}]\nkernel=filtered\n"
    assert {model for model in BoardModel if _parse(text, model).text("kernel")} == models


def test_filters_of_one_kind_replace_and_of_two_kinds_add_up() -> None:
    text = "[pi4]\na=1\n[pi5]\nb=1\n[0xffffffff]\nc=1\n[0xd03114aa]\nd=1\n[pi4]\ne=1\n[all]\nf=1\n"
    assert _parse(text).values == {"b": "1", "d": "1", "f": "1"}


def test_none_holds_until_all() -> None:
    assert _parse("[none]\na=1\n[pi5]\nb=1\n[all]\nc=1\n").values == {"c": "1"}


def test_tryboot_lines_count_in_a_tryboot() -> None:
    assert _parse("[tryboot]\na=1\n", tryboot=True).values == {"a": "1"}


def test_initramfs_has_a_syntax_of_its_own() -> None:
    assert _parse("initramfs initramfs8 followkernel\n").initramfs == "initramfs8"
    assert _parse("[pi4]\ninitramfs initramfs8 followkernel\n").initramfs is None


def test_overlays_keep_their_order_without_parameters() -> None:
    config = _parse("dtoverlay=vc4-kms-v3d,cma-512\ndtoverlay=\ndtoverlay=gpio-fan:gpiopin=14\n")
    assert config.overlays == ("vc4-kms-v3d", "gpio-fan")


def test_what_stands_behind_column_98_is_not_read() -> None:
    line = "kernel=" + "k" * MAX_LINE_CHARS
    assert _parse(line).text("kernel") == "k" * (MAX_LINE_CHARS - len("kernel="))


def test_upstream_kernel_changes_the_default_prefix_only() -> None:
    assert _parse("upstream_kernel=1\n").os_prefix == "upstream/"
    assert _parse("upstream_kernel=1\nos_prefix=current/\n").os_prefix == "current/"
    assert _parse("").os_prefix == ""


@pytest.mark.parametrize(("value", "flag"), [("1", True), ("0", False), ("yes", False), ("", False)])
def test_flags_are_numbers(value: str, flag: bool) -> None:
    assert _parse(f"os_check={value}\n").flag("os_check", default=True) is flag


@given(st.binary(max_size=400))
def test_any_bytes_are_a_config(data: bytes) -> None:
    parse_config_txt(data, Circumstances(model=BoardModel.PI4, serial=SERIAL))
