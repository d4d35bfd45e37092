"""Several control servers on one record: one of them works on orders, and another goes on when it is gone."""

from __future__ import annotations

from pathlib import Path

import pytest
from postgres_server import PostgresServer

from fleet.reimage.turn import LEASE_S, RENEW_S, TURN, Turn
from fleet.store.database import Store

pytestmark = pytest.mark.integration


def test_one_of_two_servers_works_and_the_other_takes_over(postgres: PostgresServer) -> None:
    place = postgres.new_database()
    one, other = Store.open(place), Store.open(place)
    try:
        first, second = Turn(one, "first"), Turn(other, "second")
        assert first.is_mine(1000.0)
        assert not second.is_mine(1000.0)
        for now in range(1000, 1060, 3):  # renewed while it lives
            assert first.is_mine(float(now))
            assert not second.is_mine(float(now))
        assert not second.is_mine(1057.0 + LEASE_S - RENEW_S)
        gone = 1060.0 + LEASE_S
        assert second.is_mine(gone)
        assert not first.is_mine(gone + 0.1), "the one that was away comes back, and waits"
        assert first.is_mine(gone + LEASE_S)
        assert second.is_mine(gone + 2 * LEASE_S), "whose clock goes by others' time"
        assert not first.is_mine(gone + LEASE_S - 1.0), "a clock that was set back holds no claim"
    finally:
        one.close()
        other.close()


def test_who_has_the_record_alone_writes_nothing(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "control.db")
    try:
        assert Turn(store, "only").is_mine(1000.0)
        with store.read() as reader:
            assert reader.value(TURN) is None
    finally:
        store.close()
