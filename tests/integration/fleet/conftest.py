"""A controller over a real store, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes_fleet import Fleet, cluster_spec, open_fleet
from fleet_story import AGENT, SERVER


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    opened = open_fleet(tmp_path, cluster_spec(SERVER, AGENT))
    yield opened
    opened.store.close()
