"""Ranges and conditions of RFC 9110, and anything at all in those headers."""

from __future__ import annotations

from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxe.web.ranges import Selection, select_part

TAG = '"abc-10"'
SIZE = 100
WHOLE = Selection(status=HTTPStatus.OK, count=SIZE)
UNSATISFIABLE = Selection(status=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
PART = HTTPStatus.PARTIAL_CONTENT


@pytest.mark.parametrize(
    ("wanted", "selection"),
    [
        ("bytes=0-9", Selection(status=PART, first=0, count=10)),
        ("bytes=90-", Selection(status=PART, first=90, count=10)),
        ("bytes=-7", Selection(status=PART, first=93, count=7)),
        ("bytes=-700", Selection(status=PART, first=0, count=100)),
        ("bytes=95-500", Selection(status=PART, first=95, count=5)),
        ("BYTES = 0 - 0 ", Selection(status=PART, first=0, count=1)),
        ("bytes=100-", UNSATISFIABLE),
        ("bytes=99999999999999999999-", UNSATISFIABLE),
        ("bytes=-0", UNSATISFIABLE),
        ("bytes=9-1", WHOLE),
        ("bytes=0-1,5-6", WHOLE),
        ("bytes=" + "0-0," * 1000 + "1-1", WHOLE),
        ("bytes=-", WHOLE),
        ("bytes=٣-٤", WHOLE),
        ("bytes=0x1-2", WHOLE),
        ("bytes=+1-2", WHOLE),
        ("lines=0-9", WHOLE),
        ("", WHOLE),
    ],
)
def test_a_range_selects_its_part(wanted: str, selection: Selection) -> None:
    assert select_part({"Range": wanted}, TAG, SIZE) == selection


def test_the_header_of_the_answer() -> None:
    assert select_part({"Range": "bytes=5-9"}, TAG, SIZE).content_range(SIZE) == "bytes 5-9/100"
    assert UNSATISFIABLE.content_range(SIZE) == "bytes */100"
    assert WHOLE.content_range(SIZE) is None


def test_no_range_of_an_empty_file_can_be_satisfied() -> None:
    assert select_part({"Range": "bytes=0-"}, TAG, 0) == UNSATISFIABLE
    assert select_part({}, TAG, 0) == Selection(status=HTTPStatus.OK, count=0)


@pytest.mark.parametrize(
    ("if_range", "is_part"),
    [
        (TAG, True),
        (f" {TAG} ", True),
        ('"other"', False),
        (f"W/{TAG}", False),
        ("Sat, 29 Oct 1994 19:43:31 GMT", False),
        ("", False),
    ],
)
def test_a_part_is_sent_only_of_the_file_that_the_client_has(if_range: str, is_part: bool) -> None:
    selection = select_part({"Range": "bytes=0-9", "If-Range": if_range}, TAG, SIZE)
    assert (selection.status is PART) == is_part
    assert is_part or selection == WHOLE


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-None-Match": TAG}, 304),
        ({"If-None-Match": f"W/{TAG}"}, 304),
        ({"If-None-Match": f'"x", {TAG}'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"x"'}, 200),
        ({"If-None-Match": "abc-10"}, 200),
        ({"If-Match": TAG}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": f"W/{TAG}"}, 412),
        ({"If-Match": '"x"'}, 412),
        ({"If-None-Match": TAG, "Range": "bytes=0-1"}, 304),
    ],
)
def test_conditions(headers: dict[str, str], status: int) -> None:
    assert select_part(headers, TAG, SIZE).status == status


@given(
    st.dictionaries(
        st.sampled_from(["Range", "If-Range", "If-None-Match", "If-Match"]),
        st.one_of(st.text(), st.from_regex(r"bytes=[0-9,\- ]*", fullmatch=True), st.just(TAG)),
    ),
    st.one_of(st.none(), st.just(TAG)),
    st.integers(0, 2**70),
)
def test_any_headers_select_something_inside_the_file(
    headers: dict[str, str], tag: str | None, size: int
) -> None:
    selection = select_part(headers, tag, size)
    assert 0 <= selection.first <= selection.first + selection.count <= size
    assert (selection.count == 0) == (selection.status not in (200, 206)) or size == 0
