"""config.txt sections for boards without a device tree of their own."""

from __future__ import annotations

from fleet.boards import BoardModel
from imagebuilder.steps.config_txt import FILTERS, STAND_IN, edit_config

CONFIG = "arm_64bit=1\n[all]\ninitramfs initramfs8 followkernel\n"


def test_a_cm5_gets_the_tree_of_the_pi_5_where_its_own_is_missing() -> None:
    edited = edit_config(CONFIG, {"bcm2712-rpi-5-b.dtb"})
    assert edited.startswith(CONFIG)
    assert "[cm5]\nos_check=0\ndevice_tree=bcm2712-rpi-5-b.dtb\n" in edited
    assert edited.endswith("[all]\n")


def test_each_selector_has_one_section() -> None:
    edited = edit_config(CONFIG, set(STAND_IN.values()))
    assert [edited.count(f"[{selector}]") for selector in sorted(set(FILTERS.values()))] == [1, 1, 1, 1]


def test_a_kernel_with_all_trees_needs_nothing() -> None:
    everything = {name for board in BoardModel for name in board.dtb_names}
    assert edit_config(CONFIG, everything) == CONFIG


def test_without_a_stand_in_nothing_is_promised() -> None:
    assert edit_config(CONFIG, {"other.dtb"}) == CONFIG


def test_debians_own_trees_need_sections_for_the_siblings_of_the_pi_5_only() -> None:
    debian = {
        "bcm2711-rpi-4-b.dtb",
        "bcm2711-rpi-400.dtb",
        "bcm2711-rpi-cm4-io.dtb",
        "bcm2712-rpi-5-b.dtb",
    }
    edited = edit_config(CONFIG, debian)
    assert "[cm5]" in edited
    assert "[cm4]" not in edited, "a CM4 with the Pi 4's tree finds no Ethernet PHY"
    assert "[pi400]" not in edited
