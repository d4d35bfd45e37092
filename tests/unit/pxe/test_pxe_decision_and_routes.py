"""What a board gets to boot, and which file a name means."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes_pxe import PI4_MAC, PI4_SERIAL_LOW, installing_node

from fleet.boards import MacAddress, Serial
from pxe.boot.decision import Hold, Install, LocalDisk, Stage, decide
from pxe.boot.identity import BoardIdentity
from pxe.boot.routes import TreeFile, explain_missing, is_still_so, locate, printable, route, split_name
from pxe.boot.table import BootTable, BootTree, NodeBootState

NOW = 1_800_000_000.0
OTHER_MAC = MacAddress.parse("dc:a6:32:01:02:03")
BOARD = BoardIdentity(serial_low=PI4_SERIAL_LOW, mac=PI4_MAC, is_pi=True)


def node(**changes: object) -> NodeBootState:
    fields: dict[str, object] = {"name": "one", "serial": Serial.parse("91cdf03d"), "mac": PI4_MAC}
    return NodeBootState(**{**fields, **changes})  # type: ignore[arg-type]  # keyword soup of a test


@pytest.mark.parametrize("stage", [Stage.DHCP, Stage.TFTP])
def test_an_unknown_board_is_held(stage: Stage) -> None:
    assert isinstance(decide(BOARD, None, stage, NOW), Hold)


def test_an_unknown_address_may_read_image_files() -> None:
    assert isinstance(decide(BoardIdentity(), None, Stage.HTTP, NOW), Install)


@pytest.mark.parametrize("stage", Stage)
def test_all_stages_agree_about_a_node(stage: Stage) -> None:
    assert decide(BOARD, node(install_intent=4), stage, NOW) == Install(4)
    assert decide(BOARD, node(reason="installed"), stage, NOW) == LocalDisk("installed")
    assert isinstance(decide(BOARD, node(install_intent=4, hold=True), stage, NOW), Hold)


def test_an_intent_ends_at_its_time() -> None:
    declared = node(install_intent=4, intent_expires=NOW)
    assert isinstance(decide(BOARD, declared, Stage.TFTP, NOW - 0.001), Install)
    assert isinstance(decide(BOARD, declared, Stage.TFTP, NOW), LocalDisk)


@pytest.mark.parametrize(
    ("board", "word"),
    [
        (BoardIdentity(serial_low=PI4_SERIAL_LOW, mac=OTHER_MAC), str(OTHER_MAC)),
        (BoardIdentity(serial_low=0x1234, mac=PI4_MAC), "00001234"),
    ],
    ids=["other mac", "other serial"],
)
def test_serial_and_mac_that_do_not_belong_together_are_held(board: BoardIdentity, word: str) -> None:
    answer = decide(board, node(install_intent=1), Stage.TFTP, NOW)
    assert isinstance(answer, Hold)
    assert word in answer.reason


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("91cdf03d/config.txt", ("91cdf03d", "config.txt")),
        ("/91cdf03d//overlays///overlay_map.dtb", ("91cdf03d", "overlays", "overlay_map.dtb")),
        ("./config.txt", ("config.txt",)),
    ],
)
def test_slashes_mean_nothing_twice(name: str, parts: tuple[str, ...]) -> None:
    assert split_name(name) == parts


@pytest.mark.parametrize("name", ["", "/", "..", "a/../b", "../etc/passwd", "a\\b", "a\0b", "a/" * 17])
def test_names_that_lead_elsewhere_are_no_names(name: str) -> None:
    assert split_name(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "91cdf03d/kernel8.img",
        "91CDF03D//kernel8.img",
        "1000000091cdf03d/kernel8.img",
        "e4-5f-01-09-02-f7/kernel8.img",
    ],
)
def test_every_spelling_of_the_directory_is_the_board(name: str) -> None:
    table = BootTable((node(install_intent=1),))
    found = route(name, None, table, NOW)
    assert (found.node, found.parts) == (table.nodes[0], ("kernel8.img",))


def test_a_name_without_directory_is_of_the_client_behind_the_address() -> None:
    table = BootTable((node(install_intent=1),))
    assert route("kernel8.img", BoardIdentity(mac=PI4_MAC), table, NOW).answer == Install(1)
    assert isinstance(route("kernel8.img", None, table, NOW).answer, Hold)


def test_a_board_that_asks_in_anothers_name_is_held() -> None:
    table = BootTable((node(install_intent=1),))
    found = route("91cdf03d/config.txt", BoardIdentity(mac=OTHER_MAC, serial_low=7), table, NOW)
    assert isinstance(found.answer, Hold)


@pytest.mark.parametrize(
    ("later", "same"),
    [
        (node(install_intent=1, tree=BootTree(None, {"cmdline.txt": b"1", "config.txt": b"new"})), True),
        (node(install_intent=1, tree=BootTree(None, {"cmdline.txt": b"new"})), False),
        (node(install_intent=1), False),
        (node(install_intent=2, tree=BootTree(None, {"cmdline.txt": b"1"})), False),
        (node(reason="installed", tree=BootTree(None, {"cmdline.txt": b"1"})), False),
        (node(install_intent=1, hold=True, tree=BootTree(None, {"cmdline.txt": b"1"})), False),
        (None, False),
    ],
    ids=["another file", "other content", "no content", "other intent", "closed", "held", "removed"],
)
def test_an_answer_holds_while_decision_and_content_are_the_same(
    later: NodeBootState | None, same: bool
) -> None:
    name = "91cdf03d/cmdline.txt"
    tree = BootTree(None, {"cmdline.txt": b"1"})
    earlier = route(name, None, BootTable((node(install_intent=1, tree=tree),)), NOW)
    table = BootTable((later,) if later is not None else ())
    assert is_still_so(earlier, name, None, table, NOW) is same


def test_files_come_rendered_then_extra_then_from_the_tree() -> None:
    root = Path("/images/boot")
    tree = BootTree(
        root, {"config.txt": b"mine"}, {"config.txt": Path("/x"), "initramfs8": (Path("/a"), b"b")}
    )
    assert locate(tree, ("config.txt",)) == (b"mine",)
    assert locate(tree, ("initramfs8",)) == (Path("/a"), b"b")
    assert locate(tree, ("overlays", "x.dtbo")) == TreeFile(root, ("overlays", "x.dtbo"))
    assert locate(tree, ()) is None
    assert locate(BootTree(), ("config.txt",)) is None


def test_an_empty_rendered_file_is_a_file() -> None:
    assert locate(BootTree(None, {"start4.elf": b""}), ("start4.elf",)) == (b"",)


@pytest.mark.parametrize(
    "name", ["pieeprom.sig", "pieeprom.upd", "PIEEPROM.UPD", "vl805.bin", "recovery.elf", "recover4.elf"]
)
def test_bootloader_updates_are_served_only_when_named(name: str) -> None:
    assert locate(BootTree(Path("/images/boot")), (name,)) is None
    assert locate(BootTree(None, {}, {name: Path("/update")}), (name,)) == (Path("/update"),)


def test_missing_files_are_explained() -> None:
    table = BootTable((installing_node(BootTree()),))
    texts = {
        explain_missing(route(f"91cdf03d/{name}", None, table, NOW))
        for name in ("nope", "pieeprom.sig", "../x")
    }
    assert len(texts) == 3
    done = BootTable((node(reason="installed on Monday"),))
    assert "installed on Monday" in explain_missing(route("91cdf03d/config.txt", None, done, NOW))


def test_names_from_the_network_are_made_fit_for_logs() -> None:
    assert printable("a\x1b[31m\nb\udcff") == "a?[31m?b?"
    assert len(printable("x" * 1000)) == 120
