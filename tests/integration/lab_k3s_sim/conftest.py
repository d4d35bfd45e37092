"""The packed simulator, and clusters of it on a real etcd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from k3s_sim_etcd import EtcdCluster, running_cluster

from lab.k3s_sim.release import build_release

VERSION = "v1.33.5+k3s1"


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("release")
    build_release(directory, VERSION)
    return directory / "k3s-arm64"


@pytest.fixture
def etcd_cluster(tmp_path: Path, program: Path) -> Iterator[EtcdCluster]:
    with running_cluster(tmp_path, program) as started:
        yield started
