"""Between the fleet and the boot server."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes_bramble import CONFIG, CONTROL, IMAGE_ID, make_image, node_boot

from bramble.boot_table import (
    INSTALLER_INITRAMFS,
    make_boot_table,
    render_cmdline,
    render_config,
    to_report,
)
from fleet.boards import MacAddress, decode_revision
from fleet.boots import BootStage
from fleet.timeline import Kind
from pxe.boot.identity import BoardIdentity
from pxe.diagnosis.finding import Diagnosis, Evidence, Finding, Severity
from pxe.events import BoardEvent, BootFile, BootProgress, ConsoleLine, DhcpDiscover, TransferDone

NOW = 1_800_000_000.0
PI = BoardIdentity(serial_low=0x10000001, revision=decode_revision(0xD04170), is_pi=True)


def boot_file(name: str, board: BoardIdentity = PI) -> BootFile:
    return BootFile(at=NOW, board=board, node="pi5-1", name=name, size_bytes=7, seconds=0.1)


def test_config_boots_the_installers_initramfs_and_no_other() -> None:
    lines = render_config("pi5-1", CONFIG).splitlines()
    assert [line for line in lines if "initramfs" in line] == [
        f"initramfs {INSTALLER_INITRAMFS} followkernel"
    ]


def test_config_keeps_sections_and_everything_else_in_order() -> None:
    lines = render_config("pi5-1", CONFIG).splitlines()
    kept = [line for line in CONFIG.splitlines() if "initramfs" not in line]
    assert lines[: len(kept)] == kept


def test_the_installers_initramfs_counts_for_every_model() -> None:
    lines = render_config("pi5-1", "[pi4]\narm_64bit=1").splitlines()
    sections = [
        line for line in lines[: lines.index(f"initramfs {INSTALLER_INITRAMFS} followkernel")] if "[" in line
    ]
    assert sections[-1] == "[all]"


def test_config_lines_that_only_begin_alike_stay() -> None:
    assert "initramfs_extra=1" in render_config("pi5-1", "initramfs_extra=1\n").splitlines()


def test_cmdline_is_one_line_that_names_control_pin_and_intent() -> None:
    text = render_cmdline("pi5-1", 3, CONTROL)
    assert text.endswith("\n")
    assert text.count("\n") == 1
    words = dict(word.partition("=")[::2] for word in text.split())
    assert words["bramble.control"] == "https://10.77.0.1:7443"
    assert words["bramble.pin"] == CONTROL.pin
    assert words["bramble.intent"] == "3"
    assert words["bramble.node"] == "pi5-1"


def test_a_node_with_an_open_intent_gets_the_installer(tmp_path: Path) -> None:
    image = make_image(tmp_path)
    (node,) = make_boot_table([node_boot(intent=4)], image, CONTROL).nodes
    assert node.install_intent == 4
    assert node.tree.root == image.boot_tree
    assert {"config.txt", "cmdline.txt"} <= set(node.tree.rendered)
    assert b"bramble.intent=4" in node.tree.rendered["cmdline.txt"]
    assert node.tree.extra == {INSTALLER_INITRAMFS: image.installer_initramfs}


def test_a_node_without_an_open_intent_gets_no_file(tmp_path: Path) -> None:
    (node,) = make_boot_table([node_boot(intent=None, hold=True)], make_image(tmp_path), CONTROL).nodes
    assert node.tree.root is None
    assert not node.tree.rendered
    assert not node.tree.extra
    assert node.hold
    assert node.reason == "installed"


def test_identities_and_the_end_of_the_intent_are_passed_on(tmp_path: Path) -> None:
    state = node_boot()
    (node,) = make_boot_table([state], make_image(tmp_path), CONTROL).nodes
    assert (node.mac, node.serial, node.address) == (state.mac, state.serial, state.address)
    assert node.intent_expires == state.expires


def test_http_gives_out_the_compressed_image_and_its_index_only(tmp_path: Path) -> None:
    image = make_image(tmp_path)
    table = make_boot_table([], image, CONTROL)
    assert table.images == {
        f"{IMAGE_ID}/disk.img.zst": image.compressed,
        f"{IMAGE_ID}/index.json": image.index,
    }


@pytest.mark.parametrize(
    ("event", "stage"),
    [
        pytest.param(boot_file(INSTALLER_INITRAMFS), BootStage.KERNEL, id="initramfs read"),
        pytest.param(boot_file("config.txt"), BootStage.SEEN, id="another file read"),
        pytest.param(
            TransferDone(at=NOW, board=PI, node="pi5-1", name="boot.img", sent_bytes=7, seconds=0.1),
            BootStage.KERNEL,
            id="boot image read",
        ),
        pytest.param(DhcpDiscover(at=NOW, board=PI, node=None), BootStage.SEEN, id="bootloader asks"),
        pytest.param(
            DhcpDiscover(at=NOW, board=BoardIdentity(serial_low=0x10000001), node=None),
            BootStage.SEEN,
            id="serial shown",
        ),
        pytest.param(
            DhcpDiscover(at=NOW, board=BoardIdentity(mac=MacAddress.parse("02:00:00:00:00:01")), node=None),
            BootStage.NOTE,
            id="some other machine",
        ),
    ],
)
def test_stage_of_a_report(event: BoardEvent, stage: BootStage) -> None:
    assert to_report(event).stage is stage


def test_a_report_carries_who_when_and_the_line() -> None:
    report = to_report(boot_file("kernel8.img"))
    assert report.at == NOW
    assert report.serial is not None
    assert report.serial.prefix == "10000001"
    assert report.revision == PI.revision
    assert report.model == PI.describe()
    assert report.text == "asked for kernel8.img: sent 7 bytes in 0.1 s"


def test_what_is_for_the_live_display_only_has_no_line() -> None:
    progress = BootProgress(at=NOW, board=PI, node=None, name="kernel8.img", sent_bytes=1, size_bytes=2)
    assert to_report(progress).text == ""


def test_a_diagnosis_keeps_its_mend_and_its_evidence_and_is_no_sign_of_the_board() -> None:
    finding = Finding(
        rule="file-timeout",
        severity=Severity.ERROR,
        cause="too slow",
        mend="a better cable",
        evidence=(Evidence(NOW - 30, "asked for a\x1b[2Jb"),),
    )
    report = to_report(Diagnosis(at=NOW, board=PI, node=None, finding=finding))
    assert (report.stage, report.kind) == (BootStage.NOTE, Kind.DIAGNOSIS)
    assert report.text == "diagnosis file-timeout: too slow"
    assert report.hint == "a better cable"
    (evidence,) = report.detail["evidence"]
    assert evidence["at"] == NOW - 30
    assert evidence["text"].isprintable()


def test_what_a_board_prints_is_a_line_of_its_own_kind() -> None:
    report = to_report(ConsoleLine(at=NOW, board=PI, node=None, line="Link ready"))
    assert (report.stage, report.kind, report.text) == (BootStage.NOTE, Kind.CONSOLE, "console: Link ready")
