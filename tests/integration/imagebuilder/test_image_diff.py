"""``bramble image diff`` on a small disk and a copy that other tools changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fakes_image import make_disk

from imagebuilder.cli_preflight import diff
from imagebuilder.disk.sparse import copy_sparse
from imagebuilder.inspect import ImageFacts, inspect_image
from imagebuilder.runner import run

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_disk(tmp_path_factory.mktemp("disk") / "a.img")


@pytest.fixture
def copy(disk: Path, tmp_path: Path) -> Path:
    copy_sparse(disk, tmp_path / "b.img")
    return tmp_path / "b.img"


def _debugfs(copy: Path, facts: ImageFacts, *commands: str) -> None:
    script = copy.with_name("commands")
    script.write_text("".join(f"{command}\n" for command in commands))
    done = run(["debugfs", "-w", "-f", script, f"{copy}?offset={facts.root.offset}"])
    assert [line for line in done.stderr.decode().splitlines() if not line.startswith("debugfs 1.")] == []


def _diff(one: Path, other: Path) -> tuple[int, dict[str, dict[str, Any]], list[str]]:
    result = CliRunner().invoke(diff, [str(one), str(other), "--json"])
    report = json.loads(result.stdout)
    changes = {f"{change['volume']}:{change['path']}": change for change in report["changes"]}
    assert len(changes) == len(report["changes"])
    return result.exit_code, changes, report["disk"]


def test_a_copy_is_no_difference(disk: Path, copy: Path) -> None:
    assert _diff(disk, copy) == (0, {}, [])


def test_modes_owners_links_devices_and_attributes_are_told(disk: Path, copy: Path) -> None:
    new = copy.with_name("new")
    new.write_text("new\n")
    _debugfs(
        copy,
        inspect_image(disk),
        "sif /etc/fstab mode 0100600",
        "sif /etc/hostname uid 1000",
        "sif /etc/hostname gid 100",
        "ea_set /usr/bin/zstd user.note yes",
        "rm /usr/bin/python3",
        "symlink /usr/bin/python3 python3.99",
        f"write {new} /added",
        "rm /usr/bin/scattered",
        "ln /usr/bin/zstd /usr/bin/zstd2",
        "cd /etc",
        "mknod null c 1 3",
    )
    code, changes, table = _diff(disk, copy)
    assert (code, table) == (1, [])
    details = {path: change["details"] for path, change in changes.items() if change["kind"] == "changed"}
    assert details == {
        "root:/etc/fstab": ["mode 0644 → 0600"],
        "root:/etc/hostname": ["owner 0:0 → 1000:100"],
        "root:/usr/bin/python3": ["target python3.13 → python3.99"],
        "root:/usr/bin/zstd": ["attribute user.note: none → 796573"],
    }
    others = {path: change["kind"] for path, change in changes.items() if change["kind"] != "changed"}
    assert others == {
        "root:/added": "added",
        "root:/etc/null": "added",
        "root:/usr/bin/scattered": "removed",
        "root:/usr/bin/zstd2": "added",
    }
    assert changes["root:/etc/null"]["after"]["device"] == [1, 3]
    assert changes["root:/usr/bin/zstd2"]["after"]["twin"] == "/usr/bin/zstd"


def test_the_command_line_is_shown_by_words_and_config_txt_by_lines(disk: Path, copy: Path) -> None:
    facts = inspect_image(disk)
    place = f"{disk}@@{facts.boot.offset}"
    line, config = (
        run(["mtype", "-i", place, f"::/{name}"]).stdout.decode().rstrip("\n")
        for name in ("cmdline.txt", "config.txt")
    )
    for name, content in {
        "cmdline.txt": f"{line} quiet\n",
        "config.txt": f"{config}\nhdmi_group=1\n",
    }.items():
        copy.with_name(name).write_text(content)
        run(["mcopy", "-D", "o", "-i", f"{copy}@@{facts.boot.offset}", copy.with_name(name), "::/"])
    code, changes, _ = _diff(disk, copy)
    assert code == 1
    assert sorted(changes) == ["boot:/cmdline.txt", "boot:/config.txt"]
    assert changes["boot:/cmdline.txt"]["text"] == ["+quiet"]
    assert changes["boot:/config.txt"]["text"] == ["+hdmi_group=1"]
    text = CliRunner().invoke(diff, [str(disk), str(copy)]).stdout
    assert "boot ~ /cmdline.txt: content (" in text
    assert "\n       +quiet\n" in text


def test_one_byte_in_a_large_file_is_found(disk: Path, copy: Path) -> None:
    offset = inspect_image(disk).root.offset
    listed = run(["debugfs", "-R", "blocks /usr/bin/scattered", f"{copy}?offset={offset}"]).stdout.split()
    with copy.open("r+b") as file:
        file.seek(offset + int(listed[-2]) * 4096 + 7)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    _, changes, _ = _diff(disk, copy)
    assert changes["root:/usr/bin/scattered"]["details"] == ["content (same size)"]


def test_tables_and_labels_are_told(disk: Path, copy: Path) -> None:
    with copy.open("r+b") as file:
        file.seek(440)
        file.write(b"\1\2\3\4")
    code, changes, table = _diff(disk, copy)
    assert (code, changes) == (1, {})
    assert table == ["disk id: 5ab1e0ff → 04030201"]


def test_a_file_that_is_no_image_is_an_error(disk: Path, tmp_path: Path) -> None:
    other = tmp_path / "text.img"
    other.write_bytes(b"no image" * 200_000)
    result = CliRunner().invoke(diff, [str(disk), str(other)])
    assert result.exit_code == 1
    assert "text.img" in str(result.exception)
