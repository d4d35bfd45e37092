"""From one server to three while the cluster's API is asked ten times a second: real TLS, a real etcd, the
store, the controller, and `bramble apply` as a person types it. k3s is the simulator.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner
from etcd_fleet import CLUSTER, MORE, are_ready, begin, until
from fakes_fleet_server import running
from k3s_sim_etcd import PORT, EtcdCluster, running_cluster

from fleet.cli.apply import apply
from fleet.spec import load_cluster
from lab.k3s_sim.release import build_release

pytestmark = pytest.mark.integration

STORY_S = 240.0
ASK_EVERY_S = 0.1


@dataclass
class Asker:
    """Asks one API server for the list of nodes, again and again."""

    url: str
    tls: ssl.SSLContext
    answers: int = 0
    failures: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self._stop.wait(ASK_EVERY_S):
            began = time.monotonic()
            try:
                with urllib.request.urlopen(self.url, context=self.tls, timeout=20.0) as answer:
                    answer.read()
                self.answers += 1
            except OSError as error:
                self.failures.append(str(error))
            self.longest_s = max(self.longest_s, time.monotonic() - began)

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(30.0)


def tokens(cluster: EtcdCluster) -> list[str]:
    """Bootstrap tokens that are left in the cluster."""
    _, secrets = cluster.admin("s1").call("GET", "/api/v1/namespaces/kube-system/secrets")
    names = [str(secret["metadata"]["name"]) for secret in secrets["items"]]
    return [name for name in names if name.startswith("bootstrap-token-")]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[EtcdCluster]:
    build_release(tmp_path / "release", "v1.33.5+k3s1")
    with running_cluster(tmp_path, tmp_path / "release" / "k3s-arm64") as started:
        yield started


def test_one_server_becomes_three_and_the_api_never_stops(
    cluster: EtcdCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRAMBLE_STATE_DIR", str(tmp_path / "state"))
    file = tmp_path / "cluster.yaml"
    file.write_text(CLUSTER.format(net=cluster.network))
    with running(tmp_path / "state" / "attic", load_cluster(file)) as server:
        first = [begin(server, cluster, name) for name in ("s1", "a1")]
        until(server, first, lambda: are_ready(server, first), "the server and its agent are Ready")
        identity = server.fleet.controller.joins._ground.k3s.client_identity(time.time())
        tls = ssl.create_default_context(cadata=identity.ca_pem)
        tls.load_cert_chain(identity.certificate_path, identity.key_path)
        asker = Asker(f"https://{cluster.address('s1')}:{PORT}/api/v1/nodes", tls)
        with asker.asking():
            file.write_text((CLUSTER + MORE).format(net=cluster.network))
            done = CliRunner().invoke(apply, [str(file)])
            assert done.exit_code == 0, done.output
            boards = [*first, *(begin(server, cluster, name) for name in ("s2", "s3"))]

            def is_whole() -> bool:
                settled = "server: https://" in boards[0].settings
                return are_ready(server, boards) and settled and not tokens(cluster)

            until(server, boards, is_whole, "all three servers vote")
            assert cluster.members("s3") == {"s1": True, "s2": True, "s3": True}
        assert asker.failures == []
        assert asker.answers > 20
        print(f"API: {asker.answers} answers, no failure, the longest took {asker.longest_s:.2f} s")
        assert "cluster-init" not in boards[0].settings
        founders = [
            board.spec.name
            for board in boards
            if board.material and any("cluster-init" in file.content for file in board.material.files)
        ]
        assert founders == ["s1"]
        _, nodes = cluster.admin("s2").call("GET", "/api/v1/nodes/a1")
        assert nodes["metadata"]["labels"]["tier"] == "small"
        assert nodes["metadata"]["labels"]["bramble.dev/memory"] == "8Gi"
        _, secrets = cluster.admin("s1").call("GET", "/api/v1/namespaces/kube-system/secrets")
        kinds = {secret["metadata"]["name"]: secret.get("type") for secret in secrets["items"]}
        assert "bootstrap.kubernetes.io/token" not in kinds.values()
        assert {f"{board.spec.name}.node-password.k3s" for board in boards} <= kinds.keys()
