"""The queue of requests and the account of addresses that proved nothing: fairness, bounds, and patience."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxe.tftp.reflection import CREDIT_BYTES, FACTOR, MOST_BYTES, UDP_IP_BYTES, ReflectionGuard
from pxe.tftp.waiting import WaitingRoom


def anybody(_client: str, _item: str) -> bool:
    return True


def test_clients_take_turns_and_not_requests() -> None:
    room: WaitingRoom[str] = WaitingRoom()
    for port in range(3):
        room.add("greedy", port, f"greedy {port}", 0.0)
    room.add("modest", 1, "modest", 0.0)
    turns = []
    while (turn := room.take(1.0, anybody)) is not None:
        turns.append(turn.item)
    assert turns == ["greedy 0", "modest", "greedy 1", "greedy 2"]
    assert len(room) == 0


def test_a_repeated_request_keeps_its_place() -> None:
    room: WaitingRoom[str] = WaitingRoom(patience_s=10)
    room.add("a", 1, "first", 0.0)
    room.add("b", 1, "other", 1.0)
    assert room.add("a", 1, "again", 9.0)
    assert len(room) == 2
    turn = room.take(9.5, anybody)
    assert turn is not None
    assert (turn.item, turn.since) == ("again", 0.0)


def test_whoever_may_not_start_holds_up_nobody() -> None:
    room: WaitingRoom[str] = WaitingRoom()
    room.add("full", 1, "a", 0.0)
    room.add("free", 1, "b", 0.0)
    turn = room.take(0.0, lambda client, _item: client == "free")
    assert turn is not None
    assert turn.item == "b"
    assert room.take(0.0, lambda client, _item: client == "free") is None
    assert len(room) == 1


def test_the_queue_is_bounded_in_all_and_for_each_client() -> None:
    room: WaitingRoom[str] = WaitingRoom(maximum=5, per_client=2)
    assert [room.add("a", port, "", 0.0) for port in range(3)] == [True, True, False]
    assert [room.add(f"c{number}", 1, "", 0.0) for number in range(4)] == [True, True, True, False]
    assert len(room) == 5


def test_after_its_patience_a_request_is_let_go_and_not_served() -> None:
    room: WaitingRoom[str] = WaitingRoom(patience_s=20)
    room.add("a", 1, "late", 0.0)
    room.add("a", 2, "in time", 10.0)
    turn = room.take(20.5, anybody)
    assert turn is not None
    assert turn.item == "in time"
    room.add("b", 1, "late", 0.0)
    assert room.expire(21.0) == 1
    assert len(room) == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "take", "discard", "expire"]), st.integers(0, 3), st.integers(0, 3)
        ),
        max_size=60,
    )
)
def test_the_count_is_always_what_can_be_taken(steps: list[tuple[str, int, int]]) -> None:
    room: WaitingRoom[str] = WaitingRoom(maximum=6, per_client=3, patience_s=5)
    for now, (step, client, port) in enumerate(steps):
        match step:
            case "add":
                room.add(str(client), port, "", now)
            case "take":
                room.take(now, anybody)
            case "discard":
                room.discard(str(client), port)
            case _:
                room.expire(now)
        assert 0 <= len(room) <= 6
    left = len(room)
    taken = 0
    while room.take(-100.0, anybody) is not None:
        taken += 1
    assert taken == left


@pytest.mark.parametrize(
    ("on_credit", "most"), [(False, 0), (True, CREDIT_BYTES)], ids=["stranger", "neighbour"]
)
@given(packets=st.lists(st.tuples(st.booleans(), st.integers(1, 1500)), max_size=100))
def test_nobody_gets_more_than_twice_what_came_in_its_name_and_a_neighbour_one_packet_on_top(
    packets: list[tuple[bool, int]], on_credit: bool, most: int
) -> None:
    guard = ReflectionGuard()
    came = sent = 0
    for incoming, size in packets:
        if incoming:
            guard.received("192.0.2.1", size)
            came += size + UDP_IP_BYTES
        elif guard.allows("192.0.2.1", size, on_credit=on_credit):
            sent += size + UDP_IP_BYTES
        assert sent <= FACTOR * came + most


def test_an_account_can_not_be_saved_up() -> None:
    guard = ReflectionGuard()
    for _ in range(1000):
        guard.received("192.0.2.1", 512)
    allowed = 0
    while guard.allows("192.0.2.1", 516):
        allowed += 516 + UDP_IP_BYTES
    assert allowed <= MOST_BYTES


def test_every_oack_that_a_bootloader_needs_is_paid_for_by_its_request() -> None:
    guard = ReflectionGuard()
    for _ in range(50):
        guard.received("192.0.2.1", 49)
        assert guard.allows("192.0.2.1", 33)


def test_what_nobody_asked_for_is_not_sent() -> None:
    assert not ReflectionGuard().allows("192.0.2.1", 0)
