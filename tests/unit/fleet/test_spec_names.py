"""The room's front door: names that cost memory come when they are asked for, and none is missing."""

from __future__ import annotations

import pytest

import fleet.spec


@pytest.mark.parametrize("name", fleet.spec.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(fleet.spec, name) is not None
    assert name in dir(fleet.spec)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'load_clutser'"):
        _ = fleet.spec.load_clutser  # type: ignore[attr-defined]
