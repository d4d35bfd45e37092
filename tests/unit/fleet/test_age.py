"""Passphrase encryption in age's format: what comes back, and that nothing changed, cut or foreign does."""

from __future__ import annotations

import io
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.secret import Secret
from fleet.trust.age import CHUNK, MAGIC, AgeError, AgeReader, AgeWriter

PASSPHRASE = Secret("correct horse")
LOW = 2


def randomness() -> object:
    numbers = count(1)
    return lambda size: bytes([next(numbers)]) * size


def encrypt(data: bytes, *, pieces: int = 1) -> bytes:
    target = io.BytesIO()
    with AgeWriter(target, PASSPHRASE, randomness(), LOW) as writer:  # type: ignore[arg-type]
        step = max(len(data) // pieces, 1)
        for start in range(0, len(data), step):
            writer.write(data[start : start + step])
    return target.getvalue()


def decrypt(data: bytes, passphrase: Secret = PASSPHRASE) -> bytes:
    return AgeReader(io.BytesIO(data), passphrase).readall()


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7])
@pytest.mark.parametrize("pieces", [1, 5])
def test_what_was_written_comes_back(size: int, pieces: int) -> None:
    data = bytes(number % 251 for number in range(size))
    assert decrypt(encrypt(data, pieces=pieces)) == data


def test_the_size_is_the_formats() -> None:
    header = len(encrypt(b"")) - 16
    assert len(encrypt(bytes(2 * CHUNK))) == header + 2 * (CHUNK + 16)


@given(st.integers(min_value=0, max_value=2 * CHUNK))
def test_a_file_that_is_cut_off_is_no_shorter_file(cut: int) -> None:
    whole = encrypt(bytes(CHUNK + 100))
    with pytest.raises(AgeError):
        decrypt(whole[: min(cut, len(whole) - 1)])


@given(st.integers(min_value=0), st.integers(min_value=0, max_value=7))
def test_no_changed_bit_goes_unnoticed(place: int, bit: int) -> None:
    whole = bytearray(encrypt(b"secret" * 100))
    whole[place % len(whole)] ^= 1 << bit
    with pytest.raises(AgeError):
        decrypt(bytes(whole))


def test_chunks_cannot_change_places() -> None:
    whole = encrypt(bytes(2 * CHUNK + 5))
    start = len(encrypt(b"")) - 16
    size = CHUNK + 16
    swapped = whole[:start] + whole[start + size : start + 2 * size] + whole[start : start + size]
    with pytest.raises(AgeError, match="damaged"):
        decrypt(swapped + whole[start + 2 * size :])


def test_another_passphrase_opens_nothing() -> None:
    with pytest.raises(AgeError, match="passphrase is another"):
        decrypt(encrypt(b"secret"), Secret("wrong"))


def test_a_file_that_asks_for_all_memory_is_refused_before_it_gets_any() -> None:
    hostile = encrypt(b"x").replace(b" 2\n", b" 30\n", 1)
    with pytest.raises(AgeError, match=r"N = 2\^30"):
        decrypt(hostile)


@pytest.mark.parametrize("data", [b"", b"PK\3\4", MAGIC, MAGIC + b"-> X25519 abc\n" + b"x" * 5000])
def test_other_files_are_named_as_such(data: bytes) -> None:
    with pytest.raises(AgeError, match=r"not an age file|encrypted for keys"):
        decrypt(data)
