"""Node deltas as files: what is read is what was written; a wrong image is noticed before writing."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.delta_file import (
    MAX_DELTA_BYTES,
    DeltaError,
    DeltaFile,
    DeltaPatch,
    make_delta_file,
    require_applicable,
)
from imagebuilder.disk.source import MemorySource
from imagebuilder.errors import NotUnderstood

IMAGE = hashlib.shake_256(b"image").digest(64 * 1024)
PATCHES = ((440, b"\x01\x02\x03\x04"), (9000, b"node"), (40_000, b"x" * 5000))


def made() -> DeltaFile:
    return make_delta_file("a" * 40, len(IMAGE), "pi4-1", PATCHES, MemorySource(IMAGE))


def patched(*patches: tuple[int, bytes]) -> bytes:
    image = bytearray(IMAGE)
    for offset, data in patches:
        image[offset : offset + len(data)] = data
    return bytes(image)


def test_a_delta_survives_its_file() -> None:
    assert DeltaFile.parse(made().render()) == made()
    assert "01020304" not in repr(made())
    assert "node" not in repr(made().patches[1])


def test_an_untouched_image_takes_it_and_a_finished_one_needs_it_no_more() -> None:
    assert require_applicable(made(), MemorySource(IMAGE), len(IMAGE)) is True
    assert require_applicable(made(), MemorySource(patched(*PATCHES)), len(IMAGE)) is False
    assert require_applicable(made(), MemorySource(IMAGE + bytes(100)), len(IMAGE) + 100), "a larger card"


@pytest.mark.parametrize("applied", [PATCHES[:1], PATCHES[1:], PATCHES[2:]])
def test_an_interrupted_run_can_be_repeated(applied: tuple[tuple[int, bytes], ...]) -> None:
    assert require_applicable(made(), MemorySource(patched(*applied)), len(IMAGE)) is True


def test_another_image_or_another_nodes_is_refused() -> None:
    with pytest.raises(DeltaError, match=r"1 of 3 places .* the first is byte 9000"):
        require_applicable(made(), MemorySource(patched((9000, b"else"))), len(IMAGE))
    with pytest.raises(DeltaError, match="for an image of 65536 bytes, this has 60000"):
        require_applicable(made(), MemorySource(IMAGE[:60_000]), 60_000)


def tampered(**changes: Any) -> str:
    """The file with other values and a digest that fits them."""
    body = {**json.loads(made().render()), **changes}
    del body["sha256"]
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return json.dumps({**body, "sha256": hashlib.sha256(text.encode()).hexdigest()})


def item(offset: object, data: str = "AAAA") -> dict[str, object]:
    return {"offset": offset, "data": data, "before": "0" * 64}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read"),
        ("[]", "it is not a bramble-node-delta"),
        ("[" * 100_000, "cannot be read"),
        (tampered(version=2), "of version 1"),
        (made().render().replace('"pi4-1"', '"pi4-2"'), "it is damaged"),
        (tampered(patches=[]), "0 patches"),
        (tampered(patches=[item(9), item(10)]), "overlap"),
        (tampered(patches=[item(10), item(5)]), "do not ascend"),
        (tampered(patches=[item(-1)]), "leave the image"),
        (tampered(patches=[item(1 << 70)]), "leave the image"),
        (
            tampered(patches=[item(0, "A" * 4 * (MAX_DELTA_BYTES // 3 + 1))], size_bytes=1 << 40),
            "are more than",
        ),
        (tampered(patches=[item(0, "%%%%")]), "cannot be read"),
        (tampered(patches=[{"offset": 1}]), "cannot be read"),
        (tampered(patches=5), "cannot be read"),
    ],
)
def test_a_file_that_is_no_delta_is_refused(text: str, words: str) -> None:
    with pytest.raises(NotUnderstood) as caught:
        DeltaFile.parse(text)
    assert words in caught.value.message


def test_a_delta_larger_than_its_limit_is_not_made() -> None:
    large = ((0, bytes(MAX_DELTA_BYTES)), (MAX_DELTA_BYTES, b"x"))
    with pytest.raises(NotUnderstood, match="are more than 131072 bytes"):
        make_delta_file("a" * 40, 1 << 20, "n", large, MemorySource(bytes(1 << 20)))


@given(
    st.lists(st.tuples(st.integers(0, 60_000), st.binary(min_size=1, max_size=40)), min_size=1, max_size=8)
)
def test_any_delta_survives_its_file(raw: list[tuple[int, bytes]]) -> None:
    patches: list[DeltaPatch] = []
    for offset, data in sorted(raw):
        if not patches or patches[-1].end <= offset:
            patches.append(DeltaPatch(offset, data, "0" * 64))
    delta = DeltaFile(image_id="i", size_bytes=len(IMAGE), node="n", patches=tuple(patches))
    assert DeltaFile.parse(delta.render()) == delta
