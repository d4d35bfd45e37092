"""The condition of the image's unit: a server's k3s that would found another cluster is not started."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from agent.k3s import classify
from fleet.k3s import config as k3s_config
from imagebuilder.resources import data_dir

pytestmark = pytest.mark.integration

PROGRAM = "k3s/rootfs/usr/lib/bramble/require-etcd"
DROP_IN, TOKEN = k3s_config.DROP_IN.lstrip("/"), k3s_config.TOKEN_FILE.lstrip("/")
MEMBER, TOMBSTONE = "k3s/server/db/etcd/member/wal", "k3s/server/db/etcd/tombstone"


@pytest.mark.parametrize(
    ("there", "refusal"),
    [
        ((), ""),
        ((DROP_IN, TOKEN), ""),
        ((DROP_IN, TOKEN, TOMBSTONE), ""),
        ((DROP_IN, MEMBER), ""),
        ((DROP_IN, "k3s/server/db/sim.json"), ""),
        ((DROP_IN, "k3s/server/db/joined.json"), ""),
        ((DROP_IN,), "no etcd data"),
        ((DROP_IN, "k3s/server/db/state.db"), "no etcd data"),
        ((DROP_IN, MEMBER, TOMBSTONE), "permanently removed from the cluster"),
    ],
    ids=[
        "not ours",
        "founds or joins",
        "joins again",
        "a member",
        "a simulated first server",
        "a simulated further server",
        "its data are gone",
        "a cluster of its own on a file",
        "its member was removed",
    ],
)
def test_a_server_starts_only_where_it_founds_nothing(
    tmp_path: Path, there: tuple[str, ...], refusal: str
) -> None:
    for name in there:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    argv = ["sh", str(data_dir("overlays") / PROGRAM), str(tmp_path), str(tmp_path / "k3s")]
    done = subprocess.run(argv, capture_output=True, check=False, text=True)
    assert (done.returncode, refusal in done.stderr) == (1 if refusal else 0, True)
    assert bool(done.stderr) is bool(refusal)
    if TOMBSTONE in there and refusal:
        found = classify([done.stderr])
        assert found is not None
        assert found.code == "removed_member"
