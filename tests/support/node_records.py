"""Rows of the store as tests of pure rules need them."""

from __future__ import annotations

import dataclasses
from typing import Any

from fleet.lifecycle import Standing, State
from fleet.reimage.kinds import ReimageKind
from fleet.secret import Secret
from fleet.spec.model import Role
from fleet.store.records import NodeRecord, ReimageRecord

_SET: dict[str, Any] = {
    "board": "pi5",
    "detail": "",
    "generation": 1,
    "node_password": Secret("p"),
    "boots": 0,
    "status_sequence": 0,
}


def record(name: str, role: Role, state: State, *, allowed: bool = False) -> NodeRecord:
    """A node in a state, of which nothing else is known."""
    absent: dict[str, Any] = {field.name: None for field in dataclasses.fields(NodeRecord)}
    standing = Standing(state=state, since=0.0, progressed_at=0.0)
    own = {"name": name, "uuid": name, "role": role, "standing": standing, "join_allowed": allowed}
    return NodeRecord(**{**absent, **_SET, **own})


def reimage_record(node: str = "a1", number: int = 1, **changes: Any) -> ReimageRecord:
    """An open order to re-image a node that was Ready."""
    order = ReimageRecord(
        number=number,
        node=node,
        kind=ReimageKind.REIMAGE,
        requested_at=1_000_000.0,
        by="ann",
        why="",
        image_id=None,
        force_drain=False,
        was=State.READY,
        progress={},
        closed_at=None,
        outcome=None,
        reason="",
    )
    return dataclasses.replace(order, **changes)
