"""`bramble flash --image FILE --bmap FILE`: foreign images by the maps of bmaptool."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bramble.cli import bramble
from imagebuilder.runner import run

pytestmark = pytest.mark.integration

SIZE = 24 * 2**20 + 512
GARBAGE = b"\xa5"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A sparse image whose last block is a part of one, with the map that bmaptool makes of it."""
    path = tmp_path / "foreign.img"
    with path.open("wb") as file:
        for offset, length in ((0, 8192), (9 * 2**20, 5 * 2**20), (SIZE - 512, 512)):
            file.seek(offset)
            file.write(hashlib.shake_256(str(offset).encode()).digest(length))
    run(["bmaptool", "create", path, "-o", tmp_path / "foreign.bmap"])
    return path


def flash(image: Path, block_map: Path, card: Path) -> Result:
    return CliRunner().invoke(
        bramble, ["flash", "--image", str(image), "--bmap", str(block_map), str(card), "--yes", "--json"]
    )


def make_card(path: Path) -> Path:
    path.write_bytes(GARBAGE * (32 * 2**20))
    return path


def test_what_the_map_names_is_written_and_nothing_else(image: Path, tmp_path: Path) -> None:
    card = make_card(tmp_path / "card")
    done = flash(image, tmp_path / "foreign.bmap", card)
    assert done.exit_code == 0, done.output
    wanted, written = image.read_bytes(), card.read_bytes()
    for start, end in ((0, 8192), (9 * 2**20, 14 * 2**20), (SIZE - 512, SIZE)):
        assert written[start:end] == wanted[start:end]
    between = written[2 * 2**20 : 9 * 2**20]
    assert between == GARBAGE * len(between)


def test_an_image_that_is_not_its_maps_is_refused_before_anything_is_written(
    image: Path, tmp_path: Path
) -> None:
    with image.open("r+b") as file:
        file.seek(10 * 2**20)
        file.write(b"changed")
    card = make_card(tmp_path / "card")
    done = flash(image, tmp_path / "foreign.bmap", card)
    assert "the block map says" in str(done.exception)
    assert card.read_bytes() == GARBAGE * (32 * 2**20)


def test_image_and_map_the_wrong_way_round_are_told_apart(image: Path, tmp_path: Path) -> None:
    card = make_card(tmp_path / "card")
    done = flash(tmp_path / "foreign.bmap", image, card)
    assert "is a block map, not an image" in str(done.exception)
    done = flash(image, image, card)
    assert "the block map cannot be used" in str(done.exception)
    assert card.read_bytes() == GARBAGE * (32 * 2**20)
