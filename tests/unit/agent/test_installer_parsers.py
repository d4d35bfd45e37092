"""Kernel command line, chunk index, choice of the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from agent_images import make_image

from agent.errors import AgentError
from agent.hardware import Disk
from agent.installer.cmdline import InstallerConfig, parse_cmdline
from agent.installer.disks import NoSuchDisk, choose_disk
from agent.installer.index import Chunk, parse_index
from agent.installer.stream import MAX_SKIP_BYTES, split_runs
from agent.protocol import DiskSelector

PIN = "ab" * 32
CMDLINE = (
    f"console=ttyAMA10,115200 bramble.control=https://10.77.0.1:7443"
    f" bramble.pin={PIN.upper()} bramble.intent=3"
)
GIB = 1 << 30


def test_cmdline_words_become_a_config() -> None:
    assert parse_cmdline(CMDLINE + " bramble.node=pi-1 rdinit=/init\n") == InstallerConfig(
        control_urls=("https://10.77.0.1:7443",), pin=PIN, intent=3, node="pi-1"
    )


def test_last_word_counts_and_unknown_ones_are_left_alone() -> None:
    config = parse_cmdline(CMDLINE + " bramble.intent=4 bramble.debug bramble.future=1")
    assert config.intent == 4
    assert config.node is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("bramble.control=https://10.77.0.1:7443", ""), "no bramble.control="),
        ((f"bramble.pin={PIN.upper()}", "bramble.pin=abcd"), "64 hex digits"),
        (("bramble.intent=3", "bramble.intent=-1"), "not a number"),
        (("bramble.intent=3", "bramble.intent="), "no bramble.intent="),
    ],
    ids=["no-control", "short-pin", "negative-intent", "empty-intent"],
)
def test_missing_or_malformed_words_are_named(change: tuple[str, str], complaint: str) -> None:
    with pytest.raises(AgentError, match=complaint) as caught:
        parse_cmdline(CMDLINE.replace(*change))
    assert caught.value.hint


def test_cmdline_of_another_system_is_refused() -> None:
    with pytest.raises(AgentError):
        parse_cmdline("root=/dev/vda1 quiet")


INDEX = make_image(size_mib=24).index


def make_index() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(INDEX)
    return value


def test_index_of_the_factory_is_understood() -> None:
    index = parse_index(json.dumps(make_index()).encode())
    assert index.size_bytes == 24 << 20
    assert index.mapped_bytes == sum(chunk.length for chunk in index.chunks)
    assert index.chunks[0].offset == 0


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("version",), 2, "version"),
        (("size_bytes",), "1", "size_bytes"),
        (("size_bytes",), 5, "past the image"),
        (("chunks",), [], "no chunks"),
        (("chunks", 1, "offset"), 0, r"chunks\[1\]"),
        (("chunks", 1, "position"), 0, r"chunks\[1\]"),
        (("chunks", 0, "length"), 0, "out of range"),
        (("chunks", 0, "length"), 1 << 40, "out of range"),
        (("chunks", 0, "length"), True, "not a number"),
        (("chunks", 0, "sha256"), "zz", "no digest"),
        (("chunks", 2), 5, "no object"),
    ],
)
def test_index_that_lies_is_refused(path: tuple[Any, ...], value: Any, complaint: str) -> None:
    document = make_index()
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(AgentError, match=complaint):
        parse_index(json.dumps(document).encode())


def test_index_that_is_no_json_is_refused() -> None:
    with pytest.raises(AgentError, match="not JSON"):
        parse_index(b"<html>")


def test_runs_are_cut_only_at_large_gaps() -> None:
    def chunk(position: int) -> Chunk:
        return Chunk(offset=position, length=1, sha256="0" * 64, position=position, compressed_bytes=100)

    near, far = chunk(100 + MAX_SKIP_BYTES), chunk(300 + 2 * MAX_SKIP_BYTES)
    assert [list(run) for run in split_runs([chunk(0), near, far])] == [[chunk(0), near], [far]]
    assert list(split_runs([])) == []


def make_disk(
    name: str, kind: str, serial: str = "", *, size: int = 64 * GIB, removable: bool = False
) -> Disk:
    return Disk(
        path=Path("/dev") / name, kind=kind, size_bytes=size, model="m", serial=serial, removable=removable
    )


NVME = make_disk("nvme0n1", "nvme", "S1")
NVME2 = make_disk("nvme1n1", "nvme", "S2")
CARD = make_disk("mmcblk0", "sd", "0x1234")
STICK = make_disk("sda", "usb", "U1", removable=True)


@pytest.mark.parametrize(
    ("disks", "selector", "chosen"),
    [
        ([CARD, NVME, STICK], DiskSelector("nvme"), NVME),
        ([NVME, NVME2], DiskSelector("nvme", "s2"), NVME2),
        ([NVME, CARD], DiskSelector("sd"), CARD),
        ([NVME, STICK], DiskSelector("usb"), STICK),
    ],
    ids=["by-kind", "by-serial-in-any-case", "card", "removable-usb-when-declared"],
)
def test_the_one_match_is_chosen(disks: list[Disk], selector: DiskSelector, chosen: Disk) -> None:
    assert choose_disk(disks, selector, 32 * GIB) == chosen


def test_no_match_says_what_was_found() -> None:
    with pytest.raises(NoSuchDisk, match=r"/dev/mmcblk0 \(sd, m, serial 0x1234, 64.0 GiB\)"):
        choose_disk([CARD], DiskSelector("nvme"), GIB)


def test_two_matches_are_never_guessed_between() -> None:
    with pytest.raises(AgentError, match="2 disks match") as caught:
        choose_disk([NVME, NVME2], DiskSelector("nvme"), GIB)
    assert not isinstance(caught.value, NoSuchDisk)


def test_serial_of_another_kind_does_not_match() -> None:
    with pytest.raises(NoSuchDisk):
        choose_disk([STICK], DiskSelector("nvme", "U1"), GIB)


def test_disk_smaller_than_the_image_by_a_sector_is_refused() -> None:
    with pytest.raises(AgentError, match="smaller than the image"):
        choose_disk([make_disk("nvme0n1", "nvme", size=GIB - 512)], DiskSelector("nvme"), GIB)


def test_removable_disk_needs_a_kind_that_says_so() -> None:
    odd = make_disk("nvme0n1", "nvme", removable=True)
    with pytest.raises(AgentError, match="is removable"):
        choose_disk([odd], DiskSelector("nvme"), GIB)
