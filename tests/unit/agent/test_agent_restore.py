"""Bringing etcd's data back on a node: fetched on from anywhere, checked, run once and never twice."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.commands import Completed
from agent.errors import AgentError
from agent.recovery import Restore
from agent.restore import FETCH_PIECES, K3S, UNIT, advance

CONTENT = bytes(range(256)) * 40
DROP_IN = "/etc/rancher/k3s/config.yaml.d/60-bramble-restore.yaml"
DATA = "/var/lib/rancher/bramble-restore/etcd.db"
PIECE = 1000


@dataclass
class Node:
    """A node's systemd and its link to the control server."""

    root: Path
    content: bytes = CONTENT
    state: str = "inactive"
    commands: list[list[str]] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    fails_at: int | None = None

    def run(
        self, argv: Sequence[str], *, input_bytes: bytes = b"", timeout_s: float = 1.0, check: bool = True
    ) -> Completed:
        self.commands.append(list(argv))
        text = ""
        if argv[0] == "systemd-run":
            self.state = "activating"
        elif argv[:2] == ["systemctl", "show"]:
            text = f"ActiveState={self.state}\n"
        elif argv[0] == "journalctl":
            text = "level=info msg=x\nlevel=fatal msg=bootstrap data already found\n"
        elif argv[1] in ("stop", "reset-failed"):
            self.state = "inactive"
        return Completed(tuple(argv), 0, text.encode(), "")

    def fetch(self, recovery: str, offset: int) -> bytes:
        assert recovery == "r1"
        self.asked.append(offset)
        if self.fails_at is not None and offset >= self.fails_at:
            raise AgentError("the control server can not be reached")
        return self.content[offset : offset + PIECE]

    def advance(self, restore: Restore | None = None) -> str:
        return advance(self.root, self.run, self.fetch, restore or order())

    def starts(self) -> int:
        return sum(argv[0] == "systemd-run" for argv in self.commands)

    def path(self, name: str) -> Path:
        return self.root / name.removeprefix("/")


def order(content: bytes = CONTENT, **changes: str) -> Restore:
    values = {
        "id": "r1",
        "sha256": hashlib.sha256(content).hexdigest(),
        "path": DATA,
        "reset_drop_in": DROP_IN,
    }
    return Restore(size_bytes=len(content), **{**values, **changes})


@pytest.fixture
def node(tmp_path: Path) -> Node:
    drop_in = tmp_path / DROP_IN.removeprefix("/")
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("cluster-reset: true\n")
    return Node(tmp_path)


def test_the_way_from_nothing_to_data_that_are_back(node: Node) -> None:
    assert node.advance() == "k3s restores the snapshot"
    (start,) = [argv for argv in node.commands if argv[0] == "systemd-run"]
    assert start[-2:] == [K3S, "server"]
    assert f"--unit={UNIT}" in start
    assert "--no-block" in start
    assert node.path(DATA).read_bytes() == CONTENT
    assert node.path(DATA).stat().st_mode & 0o777 == 0o600
    assert node.advance() == "k3s restores the snapshot"
    assert node.starts() == 1
    node.state = "active"
    assert node.advance() == ""
    assert not node.path(DATA).exists()
    assert not node.path(DROP_IN).exists()
    assert node.state == "inactive"


def test_what_was_restored_is_never_restored_again(node: Node) -> None:
    node.advance()
    node.state = "active"
    node.advance()
    before = len(node.asked)
    node.path(DROP_IN).write_text("cluster-reset: true\n")  # join material is put in place again
    assert node.advance() == ""
    assert not node.path(DROP_IN).exists()
    assert (len(node.asked), node.starts()) == (before, 1)


def test_power_lost_before_the_mark_ends_in_another_run(node: Node) -> None:
    node.advance()
    node.state = "inactive"  # the unit is gone with the boot
    assert node.advance() == "k3s restores the snapshot"
    assert node.starts() == 2


def test_a_fetch_goes_on_where_it_was_cut_off(node: Node) -> None:
    node.fails_at = 4000
    with pytest.raises(AgentError, match="can not be reached"):
        node.advance()
    assert node.path(DATA).stat().st_size == 4000
    node.fails_at, node.asked = None, []
    assert node.advance() == "k3s restores the snapshot"
    assert node.asked[0] == 4000


def test_a_large_snapshot_takes_several_rounds(node: Node) -> None:
    node.content = bytes(PIECE) * (FETCH_PIECES + 10)
    whole = order(node.content)
    assert node.advance(whole) == f"fetches the snapshot, {FETCH_PIECES * 100 // (FETCH_PIECES + 10)} %"
    assert node.starts() == 0
    assert node.advance(whole) == "k3s restores the snapshot"


@pytest.mark.parametrize("wrong", [CONTENT[:-1] + b"x", CONTENT + b"x"], ids=["a byte", "longer"])
def test_another_snapshot_than_announced_is_thrown_away(node: Node, wrong: bytes) -> None:
    node.content = wrong
    with pytest.raises(AgentError, match="was announced"):
        node.advance()
    assert not node.path(DATA).exists()
    assert node.starts() == 0
    node.content = CONTENT
    assert node.advance() == "k3s restores the snapshot"


def test_a_snapshot_that_ends_too_early_is_told(node: Node) -> None:
    node.content = CONTENT[:2500]
    with pytest.raises(AgentError, match=f"ends after 2500 of {len(CONTENT)}"):
        node.advance()


def test_a_failed_run_says_k3s_own_words_and_is_tried_again(node: Node) -> None:
    node.advance()
    node.state = "failed"
    with pytest.raises(AgentError, match="bootstrap data already found"):
        node.advance()
    assert node.path(DROP_IN).exists()
    assert node.advance() == "k3s restores the snapshot"
    assert node.starts() == 2


def test_an_order_that_names_other_places_is_refused(node: Node) -> None:
    with pytest.raises(AgentError, match="only files below"):
        node.advance(order(path="/etc/shadow"))
    assert node.commands == []


def test_a_slow_snapshot_takes_several_rounds_too(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.restore.FETCH_S", 0.0)
    node.content = bytes(PIECE) * 3
    whole = order(node.content)
    assert [node.advance(whole) for _ in range(3)] == [
        "fetches the snapshot, 33 %",
        "fetches the snapshot, 66 %",
        "k3s restores the snapshot",
    ]


@pytest.mark.parametrize("there", [0, 3 * PIECE])
def test_snapshot_that_would_fill_the_disk_is_not_begun(
    node: Node, monkeypatch: pytest.MonkeyPatch, there: int
) -> None:
    data = node.path(DATA)
    data.parent.mkdir(parents=True, exist_ok=True)
    if there:
        data.write_bytes(CONTENT[:there])
    needed = 2 * len(CONTENT) - there
    room = [needed - 1]
    real = os.statvfs(data.parent)

    def statvfs(_path: Path) -> os.statvfs_result:
        return os.statvfs_result((1, 1, *real[2:4], room[0], *real[5:]))

    monkeypatch.setattr(os, "statvfs", statvfs)
    with pytest.raises(AgentError, match=f"the disk has room for {needed - 1}"):
        node.advance()
    assert node.asked == []
    room[0] = needed
    assert node.advance() == "k3s restores the snapshot"
