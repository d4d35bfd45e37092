"""Notices as JSON and as text."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest

from fleet.attention import Urgency
from fleet.notify.ledger import Kind, Notice
from fleet.notify.messages import MAX_SHOWN, MAX_TITLE, document, is_urgent, sign, text, title


def notice(
    number: int = 1, kind: Kind = Kind.PROBLEM, urgency: Urgency = Urgency.NOW, words: str = "n is lost"
) -> Notice:
    return Notice(
        id=f"1-{number}",
        kind=kind,
        key="lost/n",
        code="lost",
        subject="n",
        urgency=urgency,
        text=words,
        hint="Is it on?",
        command="bramble show n",
        at=1.0,
    )


def test_one_notice_is_its_own_title() -> None:
    assert title("attic", [notice()]) == "attic: n is lost"
    assert title("attic", [notice(kind=Kind.RESOLVED)]) == "attic: over: n is lost"
    assert text([notice()]) == "n is lost\nIs it on?\n$ bramble show n"


def test_many_are_counted_and_the_first_are_listed() -> None:
    many = [*(notice(n) for n in range(60)), notice(61, Kind.RESOLVED)]
    assert title("attic", many) == "attic: 60 need a person, 1 over"
    assert text(many).count("n is lost") == MAX_SHOWN
    assert text(many).endswith(f"and {61 - MAX_SHOWN} more: bramble status")


def test_what_is_over_wakes_nobody() -> None:
    assert is_urgent([notice(), notice(kind=Kind.RESOLVED)])
    assert not is_urgent([notice(kind=Kind.RESOLVED), notice(urgency=Urgency.SOON)])


@pytest.mark.parametrize("words", ["a\r\nBcc: b@c", "\x1b[31mred", "x" * 5000])
def test_hostile_words_make_no_second_line_and_no_end(words: str) -> None:
    shown = title("attic", [notice(words=words)])
    assert shown.isprintable()
    assert len(shown) <= MAX_TITLE
    assert all(line.isprintable() for line in text([notice(words=words)]).splitlines())


def test_the_document_is_json_with_everything_in_it() -> None:
    body = json.loads(json.dumps(document("attic", [notice()])))
    assert body["version"] == 1
    assert body["urgent"] is True
    assert body["text"] == "attic: n is lost\n\nn is lost\nIs it on?\n$ bramble show n"
    assert body["notices"][0]["command"] == "bramble show n"
    assert body["notices"][0]["kind"] == "problem"


def test_the_signature_is_over_time_and_body() -> None:
    expected = hmac.new(b"key", b'1700.{"a": 1}', hashlib.sha256).hexdigest()
    assert sign(b'{"a": 1}', b"key", 1700) == f"t=1700,v1={expected}"
