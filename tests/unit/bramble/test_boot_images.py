"""Which boot image the server gives out: the one that was made for exactly this install, and no other."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from fakes_bramble import CONTROL, make_image, node_boot

from bramble.boot_image_command import eeprom_text
from bramble.boot_images import (
    RECORD,
    allow_bootloader_updates,
    find_boot_image,
    fingerprint,
    purpose_of,
    serve_boot_images,
    tree_files,
)
from bramble.boot_table import INSTALLER_INITRAMFS, make_boot_table
from fleet.boots import NodeBoot
from pxe.boot.identity import BoardIdentity
from pxe.boot.routes import TreeFile, explain_missing, locate, route
from pxe.boot.table import BootTable, BootTree

BOARD = BoardIdentity(serial_low=0x10000001, is_pi=True)
NOW = 1_700_000_000.0


def _publish(directory: Path, state: NodeBoot, root: Path, **changes: object) -> None:
    purpose = purpose_of(state, make_image(root), CONTROL)
    assert purpose is not None
    place = directory / state.name
    place.mkdir(parents=True)
    (place / "boot.img").write_bytes(b"image")
    (place / "boot.sig").write_bytes(b"signature")
    (place / RECORD).write_text(json.dumps({"purpose": asdict(purpose) | changes}))


def _table(states: list[NodeBoot], root: Path, directory: Path) -> BootTable:
    image = make_image(root)
    return serve_boot_images(make_boot_table(states, image, CONTROL), states, image, CONTROL, directory)


def test_an_image_for_the_open_intent_is_among_the_nodes_files(tmp_path: Path) -> None:
    _publish(tmp_path / "images", node_boot(intent=3), tmp_path / "a")
    table = _table([node_boot(intent=3)], tmp_path / "b", tmp_path / "images")

    found = route("10000001/boot.img", BOARD, table, NOW)
    assert found.node is not None
    assert locate(found.node.tree, found.parts) == (tmp_path / "images" / "pi5-1" / "boot.img",)
    assert INSTALLER_INITRAMFS in found.node.tree.extra


@pytest.mark.parametrize(
    "changes",
    [{"intent": 2}, {"image_id": "other"}, {"pin": "00"}, {"control": "https://10.0.0.1:1"}, {"node": "x"}],
    ids=["intent", "image", "pin", "control", "node"],
)
def test_an_image_for_anything_else_is_not_served(tmp_path: Path, changes: dict[str, object]) -> None:
    _publish(tmp_path / "images", node_boot(intent=3), tmp_path / "a", **changes)
    table = _table([node_boot(intent=3)], tmp_path / "b", tmp_path / "images")
    found = route("10000001/boot.img", BOARD, table, NOW)
    assert found.node is not None
    assert isinstance(locate(found.node.tree, found.parts), TreeFile)  # where none is
    assert explain_missing(found) == (
        "no boot image was made for intent 3: run 'bramble boot-image --node pi5-1 --sign-key KEY.pem'"
    )


def test_an_installed_node_has_no_image_whatever_lies_there(tmp_path: Path) -> None:
    _publish(tmp_path / "images", node_boot(intent=3), tmp_path / "a")
    table = _table([node_boot(intent=None)], tmp_path / "b", tmp_path / "images")
    found = route("10000001/boot.sig", BOARD, table, NOW)
    assert found.node is not None
    assert locate(found.node.tree, found.parts) is None
    assert "boots its own disk" in explain_missing(found)


@pytest.mark.parametrize("damage", ["no-record", "torn-record", "no-signature", "a-list"])
def test_half_an_image_is_none(tmp_path: Path, damage: str) -> None:
    state = node_boot(intent=1)
    _publish(tmp_path, state, tmp_path / "a")
    place = tmp_path / state.name
    match damage:
        case "no-record":
            (place / RECORD).unlink()
        case "torn-record":
            (place / RECORD).write_text('{"purpose": {')
        case "a-list":
            (place / RECORD).write_text("[]")
        case _:
            (place / "boot.sig").unlink()
    assert find_boot_image(tmp_path, purpose_of(state, make_image(tmp_path / "b"), CONTROL)) == {}


def test_the_fingerprint_changes_with_every_image(tmp_path: Path) -> None:
    assert fingerprint(tmp_path / "nothing") == ()
    _publish(tmp_path / "images", node_boot(), tmp_path / "a")
    (tmp_path / "images" / "stray").write_text("")
    before = fingerprint(tmp_path / "images")
    assert [name for name, _ in before] == ["pi5-1"]
    (tmp_path / "images" / "pi5-1" / RECORD).unlink()
    assert fingerprint(tmp_path / "images") == ()


def test_files_come_in_the_servers_own_order_of_precedence(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    (root / "overlays").mkdir(parents=True)
    (root / "config.txt").write_bytes(b"the image's")
    (root / "overlays" / "a.dtbo").write_bytes(b"a")
    (root / "link").symlink_to(root / "config.txt")
    installer = tmp_path / "installer"
    installer.write_bytes(b"i")
    tree = BootTree(root, {"config.txt": b"rendered"}, {"installer.img": installer, "x.efi": (b"a", b"b")})
    assert tree_files(tree) == {
        "config.txt": b"rendered",
        "overlays/a.dtbo": root / "overlays" / "a.dtbo",
        "installer.img": installer,
    }


@pytest.mark.parametrize(
    "name", ["pieeprom.sig", "pieeprom.upd", "recovery.bin", "vl805.bin", "recover4.elf"]
)
def test_bootloader_updates_are_served_to_those_who_asked_for_it(tmp_path: Path, name: str) -> None:
    table = _table([node_boot()], tmp_path / "a", tmp_path / "images")
    refused = route(f"10000001/{name}", BOARD, table, NOW)
    assert refused.node is not None
    assert locate(refused.node.tree, refused.parts) is None
    assert "network.bootloader_updates" in explain_missing(refused)

    allowed = route(f"10000001/{name}", BOARD, allow_bootloader_updates(table), NOW)
    assert allowed.node is not None
    assert locate(allowed.node.tree, allowed.parts) == TreeFile(tmp_path / "a" / "boot", (name,))
    assert explain_missing(allowed) == "the boot tree has no such file"


def test_a_closed_intent_shows_in_the_purpose(tmp_path: Path) -> None:
    image = make_image(tmp_path)
    assert purpose_of(node_boot(intent=None), image, CONTROL) is None
    first = purpose_of(node_boot(intent=1), image, CONTROL)
    assert first is not None
    assert first != purpose_of(node_boot(intent=2), image, CONTROL)
    assert first != purpose_of(node_boot(intent=1), image, replace(CONTROL, pin="00" * 32))


def test_what_goes_into_the_eeprom_is_told_to_the_letter() -> None:
    lines = eeprom_text("10.77.0.1", 7080, "d03114aa", "key.pub.pem").splitlines()
    for wanted in ("  HTTP_HOST=10.77.0.1", "  HTTP_PORT=7080", "  HTTP_PATH=boot/d03114aa"):
        assert wanted in lines
    assert any("--pubkey key.pub.pem" in line for line in lines)
    assert any("cm4" in line and "0xf762" in line for line in lines)
