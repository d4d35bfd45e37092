"""A secret does not show itself."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from fleet.secret import Secret

SECRET = Secret("correct horse")


@dataclass(frozen=True)
class Holder:
    secret: Secret


@pytest.mark.parametrize(
    "shown",
    [
        repr(SECRET),
        str(SECRET),
        f"{SECRET}",
        f"{SECRET:>20}",
        f"{SECRET!r}",
        str([SECRET]),
        repr(Holder(SECRET)),
    ],
)
def test_no_way_of_printing_shows_it(shown: str) -> None:
    assert "***" in shown
    assert "horse" not in shown


def test_it_is_not_serialised_by_accident() -> None:
    with pytest.raises(TypeError):
        json.dumps({"token": SECRET})


def test_equal_texts_are_equal_secrets() -> None:
    assert Secret("correct horse") == SECRET
    assert Secret("other") != SECRET
    assert SECRET != "correct horse"
    assert len({SECRET, Secret("correct horse")}) == 1
