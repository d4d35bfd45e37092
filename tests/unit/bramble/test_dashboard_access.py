"""Sessions of the dashboard: rotating names, bounded lives, and an end that is an end."""

from __future__ import annotations

import itertools

import pytest

from bramble.dashboard.access import (
    GRACE_S,
    IDLE_S,
    LIFE_S,
    LOST_S,
    MAX_SESSIONS,
    ROTATE_S,
    Session,
    Sessions,
)
from fleet.trust.tokens import TokenRole

NOW = 1_800_000_000.0


@pytest.fixture
def sessions() -> Sessions:
    numbers = itertools.count(1)
    return Sessions(lambda: f"random-{next(numbers)}")


def opened(sessions: Sessions, role: TokenRole = TokenRole.ADMIN) -> tuple[str, Session]:
    return sessions.open("token me (ab)", role, "ab", NOW)


def test_a_session_is_found_by_its_name_and_by_no_other(sessions: Sessions) -> None:
    name, session = opened(sessions)
    assert sessions.find(name, NOW) is session
    assert sessions.find(f"{name}x", NOW) is None
    assert sessions.find("", NOW) is None


def test_what_the_server_keeps_is_not_what_the_browser_shows(sessions: Sessions) -> None:
    name, session = opened(sessions)
    assert name not in session.names
    assert all(len(digest) == 64 for digest in session.names)


@pytest.mark.parametrize("role", list(TokenRole))
def test_an_idle_session_ends(sessions: Sessions, role: TokenRole) -> None:
    name, _ = opened(sessions, role)
    assert sessions.find(name, NOW + IDLE_S[role] - 1) is not None
    assert sessions.find(name, NOW + 2 * IDLE_S[role]) is None
    assert len(sessions) == 0


def test_use_keeps_a_session_but_not_beyond_its_life(sessions: Sessions) -> None:
    name, _ = opened(sessions)
    now, step = NOW, IDLE_S[TokenRole.ADMIN] / 2
    while now + step < NOW + LIFE_S[TokenRole.ADMIN]:
        now += step
        assert sessions.find(name, now) is not None
    assert sessions.find(name, NOW + LIFE_S[TokenRole.ADMIN]) is None


def test_an_open_stream_is_no_use(sessions: Sessions) -> None:
    name, _ = opened(sessions)
    for hour in range(1, 4):
        assert sessions.find(name, NOW + hour * 3600, is_use=False) is not None
    assert sessions.find(name, NOW + IDLE_S[TokenRole.ADMIN], is_use=False) is None


def test_a_name_is_changed_and_the_old_one_honoured_for_a_moment(sessions: Sessions) -> None:
    name, session = opened(sessions)
    assert sessions.rotate(session, NOW + ROTATE_S - 1) is None
    now = NOW + ROTATE_S
    fresh = sessions.rotate(session, now)
    assert fresh is not None
    assert fresh != name
    assert sessions.find(fresh, now + 1) is session
    assert sessions.find(name, now + 1 + GRACE_S - 1) is session
    assert sessions.find(name, now + 1 + GRACE_S) is None
    assert sessions.find(fresh, now + 1 + GRACE_S) is session


def test_an_answer_that_was_lost_with_the_new_name_logs_nobody_out(sessions: Sessions) -> None:
    name, session = opened(sessions)
    now = NOW + ROTATE_S
    lost = sessions.rotate(session, now)
    assert lost is not None
    assert sessions.rotate(session, now + GRACE_S - 1) is None, "it may still be under way"
    later = now + LOST_S - 1
    assert sessions.find(name, later) is session
    fresh = sessions.rotate(session, later)
    assert fresh is not None
    assert sessions.find(lost, later) is None, "who intercepted that answer has nothing"
    assert sessions.find(fresh, later + 1) is session
    assert sessions.find(name, later + 1 + GRACE_S) is None


def test_a_lost_answer_is_made_up_for_once(sessions: Sessions) -> None:
    name, session = opened(sessions)
    now = NOW + ROTATE_S
    sessions.rotate(session, now)
    again = now + GRACE_S
    assert sessions.rotate(session, again) is not None
    assert sessions.rotate(session, again + GRACE_S - 1) is None
    assert sessions.find(name, again + GRACE_S - 1) is session
    assert sessions.find(name, again + GRACE_S) is None


def test_the_name_before_is_not_honoured_for_long_where_the_new_one_is_never_shown(
    sessions: Sessions,
) -> None:
    name, session = opened(sessions)
    now = NOW + ROTATE_S
    fresh = sessions.rotate(session, now)
    assert fresh is not None
    assert sessions.find(name, now + LOST_S) is None
    assert sessions.find(fresh, now + LOST_S) is session


def test_the_next_change_may_be_lost_again(sessions: Sessions) -> None:
    name, session = opened(sessions)
    now = NOW
    for _ in range(3):
        now += ROTATE_S
        assert sessions.find(name, now) is session
        sessions.rotate(session, now)  # lost
        now += GRACE_S
        assert sessions.find(name, now) is session
        name = sessions.rotate(session, now) or name
        assert sessions.find(name, now) is session


def test_names_do_not_pile_up(sessions: Sessions) -> None:
    name, session = opened(sessions, TokenRole.VIEWER)
    for number in range(1, 200):
        now = NOW + number * ROTATE_S
        name = sessions.rotate(session, now) or name
        if number % 3:  # now and then an answer is lost
            assert sessions.find(name, now) is session
        assert len(session.names) <= 3


def test_closing_ends_every_name_of_a_session(sessions: Sessions) -> None:
    name, session = opened(sessions)
    fresh = sessions.rotate(session, NOW + ROTATE_S)
    sessions.close(session)
    assert sessions.find(name, NOW + ROTATE_S) is None
    assert sessions.find(fresh or "", NOW + ROTATE_S) is None


def test_a_flood_of_logins_ends_the_one_that_was_used_least_lately(sessions: Sessions) -> None:
    names = [sessions.open("x", TokenRole.ADMIN, None, NOW + number)[0] for number in range(MAX_SESSIONS + 1)]
    assert len(sessions) == MAX_SESSIONS
    assert sessions.find(names[0], NOW + 600) is None
    assert sessions.find(names[1], NOW + 600) is not None


def test_a_form_of_another_session_is_not_taken(sessions: Sessions) -> None:
    _, mine = opened(sessions)
    _, other = opened(sessions)
    assert mine.takes(mine.csrf)
    assert not mine.takes(other.csrf)
    assert not mine.takes("")
