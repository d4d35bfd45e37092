"""`bramble recover`: from the keyboard to the record, and back."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from click.testing import CliRunner, Result
from servers_room import S1, S2, S3, ServersRoom, lose, servers_room

from fleet.api.doors import serve_admin
from fleet.cli.recover import recover
from fleet.errors import FleetError
from fleet.lifecycle import State

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

CLUSTER = """
version: 1
cluster: {name: attic, domain: attic.internal, k3s: {version: v1.33.5+k3s1}}
image: {base: debian-trixie}
network: {interface: lo, dhcp: full, subnet: 10.77.0.0/24}
defaults: {disk: nvme}
nodes:
  - {name: s1, board: pi5, role: server, serial: 10000000abcd0001, address: 10.77.0.11}
"""
TIMEOUT_S = 60.0


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BRAMBLE_STATE_DIR", str(tmp_path))
    path = tmp_path / "cluster.yaml"
    path.write_text(CLUSTER)
    return path


@pytest_asyncio.fixture
async def room(tmp_path: Path) -> AsyncIterator[ServersRoom]:
    state = tmp_path / "attic"
    async with servers_room(state) as made, serve_admin(made.controller, state / "control.sock"):
        yield made


async def typed(file: Path, *arguments: str) -> Result:
    """In a thread, as another process would: the server goes on meanwhile."""
    argv = [*arguments, "-c", str(file)]
    return await asyncio.wait_for(asyncio.to_thread(CliRunner().invoke, recover, argv), TIMEOUT_S)


async def test_a_recovery_is_looked_at_ordered_followed_and_called_off(
    file: Path, room: ServersRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = await room.controller.snapshots.take("anna")
    assert "No recovery was ever ordered." in (await typed(file, "--status")).output
    alive = await typed(file, "--snapshot", taken.id, "--dry-run")
    assert alive.exit_code == 1
    assert "against it: etcd answers at s1, s2, s3" in alive.output
    lose(room)
    shown = await typed(file, "--snapshot", taken.id, "--dry-run", "--json")
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.output)["servers"] == ["s1", "s2", "s3"]
    assert room.state_of(S1) is State.READY
    begun = await typed(file, "--snapshot", taken.id, "--founder", "s2", "--yes")
    assert begun.exit_code == 0, begun.output
    assert f"s2 is to restore snapshot {taken.id}" in begun.output
    assert room.state_of(S2) is State.DECLARED
    declined = await typed(file, "--cancel")
    assert declined.exit_code == 2, "there is no terminal to ask on"
    assert room.state_of(S2) is State.DECLARED
    done = await typed(file, "--cancel", "--yes")
    assert done.exit_code == 0, done.output
    assert "is called off; lost until heard of again: s1, s2, s3" in done.output
    assert {room.state_of(node) for node in (S1, S2, S3)} == {State.LOST}
    status = await typed(file, "--status")
    assert f"the recovery from snapshot {taken.id} was called off" in status.output
    monkeypatch.setattr("fleet.cli.questions.is_terminal", lambda: True)
    again = await typed(file, "--cancel")
    assert again.stderr == "", "there is nothing to ask"
    assert isinstance(again.exception, FleetError)
    assert again.exception.message == "no recovery is under way"


async def test_calling_off_goes_with_no_other_wish(file: Path, room: ServersRoom) -> None:
    for other in ("--status", "--dry-run"):
        done = await typed(file, "--cancel", other)
        assert done.exit_code == 2
        assert "--cancel goes without" in done.output


async def test_a_copy_with_other_things_in_it_is_brought_in_and_restored(
    file: Path, room: ServersRoom, tmp_path: Path
) -> None:
    taken = await room.controller.snapshots.take("anna")
    copy = tmp_path / "nas" / "copy"
    shutil.move(room.controller.snapshots.files.place(taken.id), copy)
    (copy / "@eaDir").mkdir()
    lose(room)
    gone = await typed(file, "--snapshot", taken.id, "--dry-run")
    assert isinstance(gone.exception, FleetError)
    assert "on this machine" in gone.exception.message
    begun = await typed(file, "--snapshot", str(copy), "--yes")
    assert begun.exit_code == 0, begun.output
    assert [info.id for info in room.controller.snapshots.files.sound()] == [taken.id]
