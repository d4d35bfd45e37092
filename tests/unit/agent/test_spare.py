"""What stands in for `inspect`: on the Pythons that ask it for annotations it has to say the same."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass

import pytest

from agent import spare
from agent.commands import Completed
from agent.protocol import InstallProgress


@dataclass(frozen=True)
class Derived(Completed):
    """Without annotations of its own."""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> object:
    """As on a node, where nothing has loaded the real one; put back at the end."""
    monkeypatch.delitem(sys.modules, "inspect")
    spare.spare_memory()
    return sys.modules["inspect"]


@pytest.mark.parametrize("kind", [Completed, InstallProgress, Derived])
def test_annotations_of_a_class_are_those_of_the_real_module(stand_in: object, kind: type) -> None:
    assert stand_in is not inspect
    assert stand_in.get_annotations(kind) == inspect.get_annotations(kind)  # type: ignore[attr-defined]
    assert sys.modules["inspect"] is stand_in, "the real one was not loaded for it"


def test_anything_else_is_the_real_module(stand_in: object) -> None:
    assert stand_in.isclass(Completed)  # type: ignore[attr-defined]
    assert sys.modules["inspect"] is not stand_in


def test_what_is_loaded_already_stays() -> None:
    before = sys.modules["inspect"]
    spare.spare_memory()
    assert sys.modules["inspect"] is before
