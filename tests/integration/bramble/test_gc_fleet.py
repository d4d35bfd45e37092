"""`bramble gc` keeps images that the fleet's record names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes_fleet import Clock, open_fleet
from fleet_story import install
from node_records import reimage_record
from typed_cluster import HEAD, node_line, state_of, typed, write_cluster

from bramble.gc_command import gc
from fleet.spec import load_cluster
from fleet.store.records import RolloutRecord

pytestmark = pytest.mark.integration

CLUSTER = HEAD + node_line("s1", 1, role="server") + node_line("a1", 2)
HELD, ORDERED, ROLLED, OLD = "f" * 64, "aa" * 32, "bb" * 32, "cc" * 32


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BRAMBLE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("BRAMBLE_CACHE_BUDGET", raising=False)
    monkeypatch.chdir(tmp_path)
    for image in (HELD, ORDERED, ROLLED, OLD):
        entry = tmp_path / "cache" / "images" / image
        entry.mkdir(parents=True)
        (entry / "manifest.json").write_text("{}")
    return write_cluster(tmp_path, CLUSTER, monkeypatch)


def collect(*options: str) -> set[str]:
    """Ids of the images that go."""
    result = typed(gc, "--unused", "0d", "--json", *options)
    assert result.exit_code == 0, result.output + str(result.exception)
    return {one["id"] for one in json.loads(result.stdout)["removed"]}


def test_images_of_nodes_orders_and_rollouts_stay(file: Path, tmp_path: Path) -> None:
    spec = load_cluster(file)
    fleet = open_fleet(state_of(file), spec, Clock())
    install(fleet, spec.nodes[1])
    order = reimage_record("a1", 2, image_id=ORDERED)
    rollout = RolloutRecord(
        number=1,
        image_id=ROLLED,
        requested_at=1.0,
        by="ann",
        settings={},
        steps=(),
        phase="paused",
        reason="",
        closed_at=None,
    )
    with fleet.store.write() as tx:
        tx.add_reimage(order)
        tx.put_rollout(rollout)
    fleet.store.close()
    assert collect("--dry-run") == {OLD}
    assert collect() == {OLD}
    assert {entry.name for entry in (tmp_path / "cache" / "images").iterdir()} == {HELD, ORDERED, ROLLED}
    # Without regard to the cluster nothing of it is asked.
    assert collect("--no-cluster", "--dry-run") == {HELD, ORDERED, ROLLED}


def test_a_cluster_without_a_record_needs_none(file: Path) -> None:
    assert collect("--dry-run") == {HELD, ORDERED, ROLLED, OLD}
