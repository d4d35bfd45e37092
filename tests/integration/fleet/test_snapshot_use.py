"""Who begins to use a snapshot and who deletes it, at the same moment: one of both comes first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from servers_room import ServersRoom, servers_room

from fleet.recovery.desk import Plan
from fleet.refusal import RefusedError
from fleet.snapshots.files import BusyError
from fleet.snapshots.manifest import SnapshotInfo

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


@pytest_asyncio.fixture
async def room(tmp_path: Path) -> AsyncIterator[ServersRoom]:
    """A cluster that is lost, but for its snapshots."""
    async with servers_room(tmp_path / "attic") as made:
        yield made


async def lost(room: ServersRoom) -> list[SnapshotInfo]:
    """Two snapshots, the newest first; then all servers die."""
    taken = []
    for _ in range(2):
        taken.append(await room.controller.snapshots.take("anna"))
        room.fleet.clock.advance(60.0)
    for name in ("s1", "s2", "s3"):
        room.etcd.set_health(name, False)
    return taken[::-1]


async def test_a_snapshot_that_is_deleted_while_etcd_is_asked_begins_no_recovery(
    room: ServersRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    _newest, old = await lost(room)
    desk, snapshots = room.controller.recovery, room.controller.snapshots
    ask = desk.plan

    async def slowly(snapshot: str, **how: object) -> Plan:
        plan = await ask(snapshot, **how)  # type: ignore[arg-type]
        assert snapshots.prune(1) == (old.id,)
        return plan

    monkeypatch.setattr(desk, "plan", slowly)
    before = {node.name: node.state for node in map(room.record, room.spec.nodes)}
    with pytest.raises(RefusedError, match="was deleted meanwhile") as refused:
        await desk.begin(old.id, by="anna")
    assert refused.value.code == "snapshot"
    assert desk.status() is None
    assert {node.name: node.state for node in map(room.record, room.spec.nodes)} == before


async def test_who_deletes_keeps_a_recovery_from_beginning_and_the_other_way_round(room: ServersRoom) -> None:
    _newest, old = await lost(room)
    desk, snapshots = room.controller.recovery, room.controller.snapshots
    with snapshots.files.deciding():
        with pytest.raises(RefusedError, match="deciding which snapshots") as refused:
            await desk.begin(old.id, by="anna")
        with pytest.raises(BusyError):
            snapshots.prune(1)
    assert refused.value.code == "busy"
    await desk.begin(old.id, by="anna")
    assert snapshots.prune(1) == (), "what a recovery needs stays"
    desk.cancel(by="anna")
    assert snapshots.prune(1) == (old.id,)
