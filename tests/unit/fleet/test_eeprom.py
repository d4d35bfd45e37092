"""Bootloader settings: what is recommended is sound, what is wrong is said, what stands there is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from click.testing import CliRunner
from fakes_fleet import node_spec

from fleet.boards import BoardModel, DiskKind
from fleet.cli.eeprom import check, config
from fleet.eeprom.config import check_config
from fleet.eeprom.recommend import boot_order, recommend, render, settings_of
from fleet.spec.model import DiskSpec

GOOD = "[all]\nBOOT_ORDER=0xf62\n"


@pytest.mark.parametrize("board", list(BoardModel), ids=lambda board: board.yaml_name)
def test_what_is_recommended_passes_its_own_check(board: BoardModel) -> None:
    for kind in board.disks:
        node = replace(node_spec("one", 1, board=board), disk=DiskSpec(kind))
        for whose in (None, node):
            text = render(board, whose, recommend(board, whose, netconsole_port=6666))
            assert check_config(text, board) == []


@pytest.mark.parametrize(
    ("board", "disk", "order"),
    [
        (BoardModel.PI5, DiskKind.NVME, "0xf62"),
        (BoardModel.PI4, DiskKind.SD, "0xf12"),
        (BoardModel.PI4, DiskKind.USB, "0xf42"),
        (BoardModel.PI4, None, "0xf412"),
        (BoardModel.PI5, None, "0xf4162"),
    ],
)
def test_boot_orders(board: BoardModel, disk: DiskKind | None, order: str) -> None:
    node = None if disk is None else replace(node_spec("one", 1, board=board), disk=DiskSpec(disk))
    assert boot_order(board, node) == order


def test_a_console_names_its_board_by_the_nodes_address_and_fits() -> None:
    node = replace(node_spec("one", 1), address=IPv4Address("192.168.186.233"))
    value = settings_of(recommend(BoardModel.PI5, node, netconsole_port=6666))["NETCONSOLE"]
    assert value == "6665@192.168.186.233/,6666@/"
    assert len(value) <= 32
    assert "NETCONSOLE" not in settings_of(recommend(BoardModel.PI5, node))
    assert "NETCONSOLE" not in settings_of(recommend(BoardModel.PI5, None, netconsole_port=6666))


def test_every_recommendation_has_a_reason() -> None:
    assert all(len(item.reason) > 20 for item in recommend(BoardModel.PI5))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("BOOT_ORDR=0xf62", "Did you mean BOOT_ORDER"),
        ("TFTP_RETRIES=3", "is no setting"),
        ("BOOT_ORDER=f62", "hexadecimal"),
        ("BOOT_ORDER=0xf123456789", "hexadecimal"),
        ("BOOT_ORDER=0xf92", "'9' is no boot mode"),
        ("BOOT_ORDER=0xf5", "older chips"),
        ("BOOT_ORDER=0xf32", "rpiboot"),
        ("DHCP_TIMEOUT=100", "is not from 5000"),
        ("DHCP_TIMEOUT=soon", "not a number"),
        ("TFTP_IP=nas.local", "not an IPv4 address"),
        ("TFTP_PREFIX=3", "is not from 0 to 2"),
        ("TFTP_PREFIX_STR=lab", "no slash"),
        ("TFTP_PREFIX_STR=" + "x" * 40 + "/", "takes 32"),
        ("NETCONSOLE=6665@192.168.186.133/,6666@192.168.186.201/", "takes 32"),
        ("NETCONSOLE=6665@/,6666@/", "has to be there"),
        ("NETCONSOLE=6665@10.0.0.21,6666@", "is not like"),
        ("NETCONSOLE=99999@10.0.0.21/,6666@/", "from 1 to 65535"),
        ("NETCONSOLE=6665@10.0.0.321/,6666@/", "not an IPv4 address"),
        ("just words", "neither KEY=value"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(line: str, words: str) -> None:
    problems = check_config(f"{GOOD}{line}\n", BoardModel.PI5)
    assert any(words in f"{problem.message} {problem.hint}" for problem in problems)
    assert any(problem.line == 3 for problem in problems)


@pytest.mark.parametrize(
    ("text", "words", "is_error"),
    [
        ("[all]\nBOOT_UART=1\n", "BOOT_ORDER is missing", True),
        ("[all]\nBOOT_ORDER=0xf41\n", "no network boot", True),
        ("[all]\nBOOT_ORDER=0xf21\n", "only after a disk", False),
        ("[all]\nBOOT_ORDER=0x62\n", "after one round", False),
        ("[all]\nBOOT_ORDER=0xf62\nBOOT_ORDER=0xf62\n", "as well", False),
        ("[all]\nBOOT_ORDER=0xf62\n" + "#" * 3000, "bytes", True),
    ],
)
def test_orders_that_do_not_serve(text: str, words: str, is_error: bool) -> None:
    found = [problem for problem in check_config(text, BoardModel.PI5) if words in problem.message]
    assert [problem.is_error for problem in found] == [is_error]


@pytest.mark.parametrize("order", ["0xf67", "0xf17", "0xf672", "0xf47"])
def test_http_before_the_disk_is_an_error_on_a_cm4_only(order: str) -> None:
    text = f"[all]\nBOOT_ORDER={order}\n"
    (problem,) = check_config(text, BoardModel.CM4)
    assert problem.is_error
    assert (problem.line, "tries HTTP (7) before a disk" in problem.message) == (2, True)
    assert "763" in problem.hint
    assert check_config(text, BoardModel.CM5) == []


@pytest.mark.parametrize("order", ["0xf762", "0xf7612", "0xf72", "0xf7", "0xf62"])
def test_http_behind_the_disks_or_without_one_suits_a_cm4(order: str) -> None:
    assert check_config(f"[all]\nBOOT_ORDER={order}\n", BoardModel.CM4) == []


def test_http_alone_is_a_network_boot() -> None:
    assert check_config("[all]\nBOOT_ORDER=0xf67\n", BoardModel.PI5) == []
    (problem,) = check_config("[all]\nBOOT_ORDER=0xf76\n", BoardModel.PI5)
    assert "only after a disk" in problem.message


def test_nvme_is_an_error_on_a_pi4_only() -> None:
    assert check_config(GOOD, BoardModel.PI5) == []
    assert "NVMe" in check_config(GOOD, BoardModel.PI4)[0].message


def test_lines_for_config_txt_and_sections_are_left_alone() -> None:
    text = f"{GOOD}[pi5]\nPCIE_PROBE=1\n[config.txt]\nanything goes here\n"
    assert check_config(text, BoardModel.PI5) == []


def test_the_file_is_alone_on_standard_output() -> None:
    result = CliRunner().invoke(config, ["--board", "pi5"])
    assert result.exit_code == 0
    assert result.stdout.startswith("# Bramble")
    assert check_config(result.stdout, BoardModel.PI5) == []
    assert "MAX_RESTARTS=-1\n    try for ever" in result.stderr
    values = json.loads(CliRunner().invoke(config, ["--board", "cm5", "--json"]).stdout)
    assert values["board"] == "cm5"
    assert {"key", "value", "reason", "is_optional"} <= values["settings"][0].keys()


@pytest.mark.parametrize("arguments", [[], ["--board", "pi5", "--node", "one"]])
def test_a_board_or_a_node_has_to_be_named(arguments: list[str]) -> None:
    assert CliRunner().invoke(config, arguments).exit_code == 2


def test_checking_a_file(tmp_path: Path) -> None:
    path = tmp_path / "boot.conf"
    path.write_text(f"{GOOD}BOOT_ORDR=1\n")
    result = CliRunner().invoke(check, [str(path), "--board", "pi5"])
    assert result.exit_code == 2
    assert f"{path}:3: error: BOOT_ORDR is no setting" in result.output
    path.write_text(GOOD)
    assert CliRunner().invoke(check, [str(path), "--board", "pi5"]).exit_code == 0
