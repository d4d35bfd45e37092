"""A control server, and an installed node that has a ticket for it, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_images import ContentServer, FakeImage, make_image
from agent_nodes import FakeSystem, make_node_root
from fakes_agent import TICKET, ControlServer, running


@pytest.fixture
def control(tmp_path: Path) -> Iterator[ControlServer]:
    server = ControlServer(tmp_path)
    with running(server):
        yield server


@pytest.fixture
def system() -> FakeSystem:
    return FakeSystem()


@pytest.fixture
def root(tmp_path: Path, control: ControlServer) -> Path:
    return make_node_root(
        tmp_path / "root", control_urls=[control.url], ca_pem=control.authority.pem, ticket=TICKET
    )


@pytest.fixture(scope="session")
def image() -> FakeImage:
    return make_image()


@pytest.fixture
def content(image: FakeImage) -> Iterator[ContentServer]:
    """Serves the image; what goes wrong with that is in its `faults`."""
    server = ContentServer(image)
    with running(server):
        yield server
