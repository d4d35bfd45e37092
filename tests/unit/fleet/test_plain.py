"""Messages as plain values: the same as through JSON."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from agent.protocol import Status, encode
from fleet.plain import plain


@given(st.builds(Status, sequence=st.integers(0, 2**53)))
def test_plain_values_are_what_json_gives_back(status: Status) -> None:
    text = encode(status)
    if b"NaN" not in text and b"Infinity" not in text:
        assert plain(status) == json.loads(text)
