"""Token buckets per source."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fleet.api.limits import MAX_SOURCES, RateLimit


@given(waits=st.lists(st.floats(0, 2), max_size=200))
def test_a_source_never_gets_more_than_burst_and_rate(waits: list[float]) -> None:
    limit = RateLimit(burst=5, per_second=2.0)
    now, passed = 100.0, 0
    for wait in waits:
        now += wait
        passed += limit.allows("a", now)
    assert passed <= 5 + (now - 100.0) * 2.0 + 1e-6


def test_one_source_does_not_use_up_anothers_share() -> None:
    limit = RateLimit(burst=2, per_second=1.0)
    assert [limit.allows("a", 0.0) for _ in range(3)] == [True, True, False]
    assert limit.allows("b", 0.0)
    assert limit.allows("a", 1.0)


def test_many_sources_do_not_grow_memory() -> None:
    limit = RateLimit(burst=2, per_second=1.0)
    for number in range(MAX_SOURCES + 100):
        assert limit.allows(str(number), 0.0)
    assert len(limit._buckets) <= MAX_SOURCES
