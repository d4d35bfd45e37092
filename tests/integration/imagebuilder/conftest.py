"""One world of inputs and results for all tests that let builds go wrong."""

from __future__ import annotations

import pytest
from build_world import World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))
