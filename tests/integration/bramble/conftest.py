"""A furnished rack behind the dashboard, one for each module that asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dashboard_client import Browser, admin_of
from dashboard_rack import Rack, attic, furnish, live_rack


@pytest.fixture(scope="module")
def rack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rack]:
    with live_rack(tmp_path_factory.mktemp("rack"), attic()) as rack:
        furnish(rack)
        yield rack


@pytest.fixture
def admin(rack: Rack) -> Browser:
    return admin_of(rack)
