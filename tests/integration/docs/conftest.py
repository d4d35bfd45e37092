"""Readers of the documents, who type what stands there."""

from __future__ import annotations

from pathlib import Path

import pytest
from docs_reader import Reader, file_of

FIRST = "docs/tutorials/first-node.md"


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """Somebody in an empty directory, whose state is his own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRAMBLE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("BRAMBLE_STORE", raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    return Reader(tmp_path)


@pytest.fixture
def lab(reader: Reader) -> Reader:
    """He has written the tutorial's cluster.yaml and has the simulator."""
    Path("cluster.yaml").write_text(file_of(FIRST, "cluster.yaml"))
    made = reader.type(FIRST, "bramble lab k3s ./k3s-simulator")
    assert "simulator of k3s v1.33.5+k3s1" in made.output
    return reader
