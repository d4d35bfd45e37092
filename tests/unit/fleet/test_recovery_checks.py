"""Which snapshot may be restored, where it begins, and what the first server is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from fakes_fleet import cluster_spec, node_spec

from fleet.k3s.config import InitialiseCluster, RestoreCluster, render_join_material
from fleet.k3s.material import open_k3s
from fleet.recovery.checks import choose_founder, founder_problems, snapshot_problems
from fleet.recovery.state import RESET_DROP_IN, Recovery
from fleet.secret import Secret
from fleet.snapshots.manifest import SnapshotInfo
from fleet.spec.model import Role

SERVERS = [node_spec(f"s{number}", number, role=Role.SERVER) for number in (1, 2, 3)]
SPEC = cluster_spec(*SERVERS, node_spec("a1", 4))
CA = "ab" * 32


def info(**changes: Any) -> SnapshotInfo:
    whole = SnapshotInfo(
        id="20261126T031500Z-0a1b2c",
        cluster=SPEC.name,
        cluster_id="77",
        taken_at=1.0,
        by="schedule",
        node="s1",
        servers=("s1", "s2", "s3"),
        removing=(),
        k3s_version=SPEC.k3s.version,
        etcd_version="3.5.1",
        revision=9,
        size_bytes=20512,
        sha256="cd" * 32,
        keys_sha256="ef" * 32,
        ca_hash=CA,
    )
    return dataclasses.replace(whole, **changes)


def codes(taken: SnapshotInfo) -> list[str]:
    found = snapshot_problems(taken, SPEC, CA)
    assert all(problem.text and problem.hint for problem in found)
    return [problem.code for problem in found]


def test_a_snapshot_of_this_cluster_and_release_may_be_restored() -> None:
    assert codes(info()) == []


@pytest.mark.parametrize("changes", [{"cluster": "other"}, {"ca_hash": "00" * 32}], ids=["name", "CA"])
def test_a_snapshot_of_another_cluster_is_refused(changes: dict[str, str]) -> None:
    assert codes(info(**changes)) == ["other-cluster"]


@pytest.mark.parametrize(
    "version", ["v1.32.9+k3s1", "v1.34.1+k3s1", "v1.33.99+k3s1", "latest", ""],
    ids=["older minor", "newer minor", "newer patch", "a word", "nothing"],
)  # fmt: skip
def test_a_snapshot_of_another_release_is_refused(version: str) -> None:
    assert codes(info(k3s_version=version)) == ["version"]


def test_a_snapshot_of_an_older_patch_of_the_same_release_may_be_restored() -> None:
    assert codes(info(k3s_version="v1.33.0+k3s1")) == []


def test_the_first_server_is_one_that_was_not_marked_for_removal() -> None:
    assert choose_founder(info(), SPEC) == "s1"
    assert choose_founder(info(removing=("s1",)), SPEC) == "s2"
    assert choose_founder(info(removing=("s1", "s2"), servers=("s1", "s2")), SPEC) == "s3"
    assert choose_founder(info(removing=("s1", "s2", "s3")), SPEC) is None
    assert choose_founder(info(removing=None, servers=("s3",)), SPEC) == "s3"


def test_a_marked_server_an_agent_and_a_stranger_are_refused_as_the_first() -> None:
    (marked,) = founder_problems("s1", info(removing=("s1",)), SPEC)
    assert "take its own member out" in marked.text
    for name in ("a1", "nobody", ""):
        (problem,) = founder_problems(name, info(), SPEC)
        assert "s1, s2, s3" in problem.hint
    assert founder_problems("s2", info(), SPEC) == []


def test_the_first_server_is_told_to_restore_and_not_to_found(tmp_path: Path) -> None:
    keys = open_k3s(tmp_path / "k3s", "attic", 1_800_000_000.0)
    recovery = Recovery(
        id="00" * 8, snapshot="x", sha256="cd" * 32, size_bytes=5, founder="s1", stale=("s2",), by="me",
        began_at=1.0,
    )  # fmt: skip

    def contents(way: InitialiseCluster | RestoreCluster) -> dict[str, str]:
        material = render_join_material(
            SPEC,
            SERVERS[0],
            keys,
            way,
            address="10.0.0.1",
            node_password=Secret("x"),
            generation=3,
            version=None,
        )
        assert (material.restore is not None) == isinstance(way, RestoreCluster)
        return {file.path: file.content for file in material.files}

    restoring, founding = contents(RestoreCluster(recovery)), contents(InitialiseCluster())
    assert "cluster-reset: true" in restoring[RESET_DROP_IN]
    assert recovery.data_path in restoring[RESET_DROP_IN]
    assert not any("cluster-init" in content for content in restoring.values())
    assert RESET_DROP_IN not in founding
    assert founding.keys() <= restoring.keys()
