"""What is on a disk: the marker of our installations, other tables, nothing, and any bytes at all."""

from __future__ import annotations

import hashlib

import pytest
from agent_images import make_table
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import AgentError
from agent.installer.layout import MIB
from agent.installer.occupant import MAGIC, MARKER_OFFSET, UNKNOWN, encode_marker, inspect_head
from agent.protocol import Occupant

OCCUPANT = Occupant(cluster="attic", node="pi5-1", image_id="c0" * 32, installation="1a" * 16)
NOBODY = Occupant(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)
TABLE = make_table(16384, 2048, 32768, 4096)


def make_head(*, table: bytes = TABLE, marker: bytes = b"", gpt: bool = False) -> bytes:
    head = bytearray(MIB)
    head[: len(table)] = table
    if gpt:
        head[512:520] = b"EFI PART"
    head[MARKER_OFFSET : MARKER_OFFSET + len(marker)] = marker
    return bytes(head)


def seal(body: bytes) -> bytes:
    padded = body.ljust(472, b"\0")
    return MAGIC + hashlib.sha256(padded).digest() + padded


names = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=12)


@given(st.builds(Occupant, names, names, names, names))
def test_marker_is_one_sector_and_tells_who_is_there(occupant: Occupant) -> None:
    marker = encode_marker(occupant)
    assert len(marker) == 512
    assert inspect_head(make_head(marker=marker)).occupant == occupant


def test_longest_names_that_cluster_yaml_allows_fit() -> None:
    marker = encode_marker(Occupant("c" * 63, "n" * 63, "f" * 64, "1" * 32))
    assert inspect_head(make_head(marker=marker)).occupant is not None


def test_names_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(AgentError, match="472 fit"):
        encode_marker(Occupant("c" * 500, "n", "f", "1"))


@pytest.mark.parametrize(
    ("head", "text"),
    [
        (make_head(table=b""), "no partition table"),
        (make_head(table=b"", marker=encode_marker(OCCUPANT)), "no partition table"),
        (b"", "no partition table"),
        (make_head(), "a partition table that is not Bramble's"),
        (make_head(gpt=True), "a partition table that is not Bramble's"),
        (make_head(table=b"", gpt=True), "a partition table that is not Bramble's"),
        (TABLE, "a partition table that is not Bramble's"),
    ],
    ids=["zeros", "invalidated", "empty", "mbr", "gpt", "gpt-alone", "only-sector-0"],
)
def test_what_is_no_installation_is_named(head: bytes, text: str) -> None:
    finding = inspect_head(head)
    assert (finding.occupant, finding.text) == (None, text)


def test_installation_is_named() -> None:
    finding = inspect_head(make_head(marker=encode_marker(OCCUPANT)))
    assert finding.text == "an installation of pi5-1 of cluster attic"


@pytest.mark.parametrize(
    "marker",
    [
        MAGIC,
        seal(b""),
        seal(b"[]"),
        seal(b"[" * 400),
        seal(b'{"cluster": 7, "node": "\\u001b[2J", "image_id": "\\ud800", "later": true}'),
        encode_marker(OCCUPANT)[:-1] + b"x",
    ],
    ids=["magic", "empty", "list", "deep", "hostile", "changed"],
)
def test_damaged_marker_still_protects_the_disk(marker: bytes) -> None:
    assert inspect_head(make_head(marker=marker)).occupant == NOBODY


@given(st.binary(max_size=520), st.binary(max_size=512))
def test_any_bytes_give_an_answer(start: bytes, end: bytes) -> None:
    for head in (start, make_head(table=start, marker=end), make_head(marker=seal(end[:472]))):
        assert inspect_head(head).text
