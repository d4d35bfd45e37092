"""What several modules start from: a world of inputs and results, a publisher with its key, and its site."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from build_world import World
from image_site import SigningKey, Site, end_agent, image_site, make_key
from stock_sites import packed_disk


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SigningKey]:
    home = tmp_path_factory.mktemp("gpg")
    yield make_key(home, "publisher")
    end_agent(home)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return packed_disk(tmp_path_factory.mktemp("disk"))


@pytest.fixture
def site() -> Iterator[Site]:
    with image_site() as found:
        yield found
