"""The quick decoder against the one of the protocol: the same values, and the same refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.protocol import Hello, InstallPlan, InstallProgress, InstallStep, Status
from agent.wire import MAX_BODY_BYTES, ProtocolError, decode, encode
from fleet.api import swift
from fleet.api.swift import decode_of_any_version

KINDS = [Status, Hello, InstallProgress, InstallPlan]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def told(decoder: Any, kind: type, body: bytes) -> object:
    try:
        return decoder(kind, body)
    except ProtocolError as error:
        return str(error)


def slowly(kind: type, body: bytes) -> object:
    return decode(kind, body, newer_peer=True)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_what_was_sent_is_read_alike(kind: type, data: st.DataObject) -> None:
    message = data.draw(st.builds(kind))
    body = encode(message)
    assert told(decode_of_any_version, kind, body) == told(slowly, kind, body)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_what_was_changed_is_read_or_refused_alike(kind: type, data: st.DataObject) -> None:
    value = json.loads(encode(data.draw(st.builds(kind))))
    place = value
    for _ in range(data.draw(st.integers(0, 2))):
        inner = [entry for entry in place.values() if isinstance(entry, dict)]
        if inner:
            place = data.draw(st.sampled_from(inner))
    name = data.draw(st.sampled_from([*place, "more"]) if place else st.just("more"))
    if data.draw(st.booleans()):
        place.pop(name, None)
    else:
        place[name] = data.draw(values)
    body = json.dumps(value).encode()
    assert told(decode_of_any_version, kind, body) == told(slowly, kind, body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 50_000,
        b'{"a": NaN}',
        b" " * (MAX_BODY_BYTES + 1),
        '{"a": 1}'.encode("utf-16"),
    ],
    ids=["empty", "list", "torn", "not-utf8", "deep", "nan", "long", "utf16"],
)
def test_hostile_bodies_are_refused_alike(body: bytes) -> None:
    assert told(decode_of_any_version, Status, body) == told(slowly, Status, body)


def test_a_sound_status_never_takes_the_slow_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_args: object, **_more: object) -> None:
        raise AssertionError("the slow way")

    body = (
        b'{"sequence":1,"boot_id":"b","hardware":{"serial":"","model":"","macs":["m"],"memory_bytes":1},'
        b'"health":{"uptime_s":1,"load1":0.5,"memory_available_bytes":1,"root_free_bytes":1,'
        b'"clock_synchronised":true,"pressure_some_avg10":{"cpu":1}},"addresses":["a"],"k3s":"running","newer":[]}'
    )
    expected = decode(Status, body, newer_peer=True)
    monkeypatch.setattr(swift, "decode", slow)
    assert decode_of_any_version(Status, body) == expected


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" + 400 * "0", "1" + 5000 * "0"])
@pytest.mark.parametrize("field", ["load1", "pressure_some_avg10"])
def test_number_that_is_no_measurement_is_refused_by_both(number: str, field: str) -> None:
    value = f'{{"cpu":{number}}}' if field == "pressure_some_avg10" else number
    health = {"uptime_s": 1, "load1": 0.5, "memory_available_bytes": 1, "root_free_bytes": 1}
    text = json.dumps({**health, "clock_synchronised": True, field: 0}).replace(
        f'"{field}": 0', f'"{field}":{value}'
    )
    hardware = {"serial": "", "model": "", "macs": ["m"], "memory_bytes": 1}
    head = json.dumps(
        {"sequence": 1, "boot_id": "b", "hardware": hardware, "addresses": [], "k3s": "running"}
    )
    body = f'{head[:-1]}, "health": {text}}}'.encode()
    refused = told(decode_of_any_version, Status, body)
    assert refused == told(slowly, Status, body)
    assert isinstance(refused, str)
    assert "too large" in refused or "not JSON" in refused
    assert isinstance(told(slowly, Status, body.replace(number.encode(), b"1e9")), Status)


@pytest.mark.parametrize(("digits", "is_taken"), [(20, True), (21, False), (400, False)])
def test_an_integer_that_no_count_has_is_refused_by_both(digits: int, is_taken: bool) -> None:
    """Whoever reads it as a float would end with an OverflowError: metrics and curves of all nodes."""
    hardware = {"serial": "", "model": "1" * 30, "macs": ["m"], "memory_bytes": -int("9" * digits)}
    health = {"uptime_s": 1, "load1": 0.5, "memory_available_bytes": 1, "root_free_bytes": 1}
    health["clock_synchronised"] = True
    said = {"hardware": hardware, "health": health, "addresses": [], "k3s": "running"}
    body = json.dumps({"sequence": 1, "boot_id": "b", **said}).encode()
    read = told(decode_of_any_version, Status, body)
    assert read == told(slowly, Status, body)
    assert isinstance(read, Status) is is_taken
    assert is_taken or read == "a number is too large: it has more than 20 digits"


@pytest.mark.parametrize(
    ("escaped", "read"),
    [("\\ud800", "?"), ("x\\uDC80y", "x?y"), ("\\ud83c\\udf53", "\N{STRAWBERRY}"), ("na\\u00efve", "naïve")],
    ids=["high", "low", "pair", "accent"],
)
def test_half_of_a_character_is_no_text(escaped: str, read: str) -> None:
    """A page or a terminal that was to show it would fail."""
    body = encode(InstallProgress(1, InstallStep.WRITE, 5.0, message="WORDS")).replace(
        b"WORDS", escaped.encode()
    )
    found = decode_of_any_version(InstallProgress, body)
    assert found.message == read
    assert found == slowly(InstallProgress, body)


def test_what_is_no_utf8_is_refused_by_both() -> None:
    body = encode(InstallProgress(1, InstallStep.WRITE, 5.0, message="WORDS")).replace(
        b"WORDS", b"\xed\xa0\x80"
    )
    assert isinstance(told(slowly, InstallProgress, body), str)
    assert told(decode_of_any_version, InstallProgress, body) == told(slowly, InstallProgress, body)
