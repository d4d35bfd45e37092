"""Whatever bytes an image holds, inspection ends soon, in facts or in an error that says what is wrong."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from fakes_image import make_disk
from fakes_systems import SYSTEMS

from imagebuilder.disk.source import ByteSource, open_source
from imagebuilder.errors import NotUnderstood
from imagebuilder.inspect import ImageFacts, inspect_image, inspect_source

pytestmark = pytest.mark.integration

ROUNDS = 120


class Damaged:
    """A disk of which some bytes are others."""

    def __init__(self, source: ByteSource, changes: dict[int, bytes]) -> None:
        self._source = source
        self._changes = changes

    def read_at(self, offset: int, size: int) -> bytes:
        data = bytearray(self._source.read_at(offset, size))
        for at, change in self._changes.items():
            for index, byte in enumerate(change):
                if offset <= at + index < offset + size:
                    data[at + index - offset] = byte
        return bytes(data)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_disk(tmp_path_factory.mktemp("pristine") / "disk.img", system=SYSTEMS["raspios-trixie"])


@pytest.fixture(scope="module")
def facts(pristine: Path) -> ImageFacts:
    return inspect_image(pristine)


def places(facts: ImageFacts) -> dict[str, tuple[int, int]]:
    """Where damage is told apart: (offset, length)."""
    boot, root = facts.boot.offset, facts.root.offset
    return {
        "table": (0, 512),
        "FAT boot sector": (boot, 96),
        "FAT tables": (boot + 32 * 512, 4096),
        "FAT directories": (boot + (32 + 2 * 630) * 512, 2 * 512),
        "superblock": (root + 1024, 0x70),
        "group descriptors": (root + 4096, 64),
        "inodes": (root + 39 * 4096, 8192),
    }


@pytest.mark.parametrize("where", ["table", "FAT boot sector", "FAT tables", "FAT directories"])
def test_damage_of_the_boot_side_ends_in_facts_or_words(
    where: str, pristine: Path, facts: ImageFacts
) -> None:
    inspect_damaged(where, pristine, facts)


@pytest.mark.parametrize("where", ["superblock", "group descriptors", "inodes"])
def test_damage_of_the_root_side_ends_in_facts_or_words(
    where: str, pristine: Path, facts: ImageFacts
) -> None:
    inspect_damaged(where, pristine, facts)


def inspect_damaged(where: str, pristine: Path, facts: ImageFacts) -> None:
    start, length = places(facts)[where]
    chance, told = random.Random(where), 0
    with open_source(pristine) as source:
        for _ in range(ROUNDS):
            changes = {}
            for _ in range(chance.randint(1, 3)):
                value = chance.choice([bytes(4), b"\xff" * 4, chance.randbytes(4), struct.pack("<I", 2)])
                changes[start + chance.randrange(length - 4)] = value
            try:
                inspect_source(Damaged(source, changes), facts.size_bytes)
            except NotUnderstood:  # anything else that is raised is a fault of ours, and ends the test
                told += 1
    assert told, "the damage did not reach anything"
