"""What `bramble store list` and `bramble image show` say to people."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from imagebuilder.cli_image import show
from imagebuilder.cli_store import store_commands
from imagebuilder.digests import DigestCache
from imagebuilder.store import Store


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with one image and thirty notes of digests of files that are gone."""
    monkeypatch.setenv("BRAMBLE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "cache")

    def build(into: Path) -> None:
        (into / "disk.img").write_text("bits")

    store.get_or_create("images", "f87f", build)
    digests = DigestCache(store.root / "digests")
    for number in range(30):
        (tmp_path / f"{number}.img").write_text(str(number))
        digests.sha256(tmp_path / f"{number}.img")
        (tmp_path / f"{number}.img").unlink()
    return store.root


def listed(*words: str) -> Result:
    return CliRunner().invoke(store_commands, ["list", *words])


def test_notes_of_digests_are_one_line_and_what_takes_room_has_lines_of_its_own() -> None:
    lines = listed().output.splitlines()
    assert [line.split()[-1] for line in lines if "images/" in line] == ["images/f87f"]
    assert [line for line in lines if "30 notes of digests" in line]
    assert len(lines) == 3, lines


def test_nothing_is_left_out_of_all_and_of_json() -> None:
    assert len(re.findall(r" digests/[0-9a-f]+", listed("--all").output)) == 30
    entries: list[dict[str, Any]] = json.loads(listed("--json").output)
    assert sum(entry["kind"] == "digests" for entry in entries) == 30


def test_an_image_of_no_named_cluster_is_that_of_this_directory(tmp_path: Path) -> None:
    without = CliRunner().invoke(show, [])
    assert without.exit_code == 2
    assert "There is no cluster.yaml here" in without.output
    (tmp_path / "cluster.yaml").write_text("version: 1\nnonsense: 1\n")
    assert "nonsense" in str(CliRunner().invoke(show, []).exception), "it was read"
    both = CliRunner().invoke(show, [str(tmp_path), "-c", "cluster.yaml"])
    assert both.exit_code == 2
    assert "Give either a DIR or --cluster FILE" in both.output
