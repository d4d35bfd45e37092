"""What keeps any node from being re-imaged now, whoever asks."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from fakes_fleet import cluster_spec, node_spec
from hypothesis import given
from hypothesis import strategies as st

from fleet.lock import Hold
from fleet.reimage.guards import POLICY, is_unattended, problems
from fleet.spec.model import ClusterSpec, Role
from fleet.spec.window_text import parse_window

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp()  # a Thursday


def spec(*windows: str, parallel: int = 1) -> ClusterSpec:
    base = cluster_spec(node_spec("pi5-1", 1))
    policy = replace(base.policy.reimage, windows=tuple(map(parse_window, windows)), max_parallel=parallel)
    return replace(base, policy=replace(base.policy, reimage=policy))


def codes(
    by: str, cluster: ClusterSpec, *, obstacle: str | None = None, holds: tuple[Hold, ...] = ()
) -> list[str]:
    found = problems(
        name="a1", role=Role.AGENT, by=by, obstacle=obstacle, holds=holds, spec=cluster, now=NOON
    )
    return [problem.code for problem in found]


def test_everything_that_stands_against_it_is_told_at_once() -> None:
    held = Hold(node="a2", role=Role.AGENT, number=1, taken_at=0.0, by="x", stuck=True, state="lost")
    found = codes(POLICY, spec("sat 01:00-05:00"), obstacle="under-voltage (4.4 V)", holds=(held,))
    assert found == ["lock", "health", "window"]


def test_a_brown_out_binds_everybody_and_a_window_nobody_who_looks_on() -> None:
    closed = spec("sat 01:00-05:00")
    assert codes("ann", closed) == []
    assert codes("ann", closed, obstacle="storage fails") == ["health"]
    assert codes("rollout 4", closed) == ["window"]
    assert codes(POLICY, spec("thu 11:00-13:00")) == []


def test_closed_window_tells_when_the_next_one_opens() -> None:
    (window,) = problems(
        name="a1", role=Role.AGENT, by=POLICY, obstacle=None, holds=(), spec=spec("sat 01:00-05:00"), now=NOON
    )
    assert "Sat 2026-11-28 01:00" in window.text


def test_a_zone_that_the_machine_lost_counts_as_closed() -> None:
    gone = problems(
        name="a1",
        role=Role.AGENT,
        by=POLICY,
        obstacle=None,
        holds=(),
        spec=spec("daily 00:00-24:00 No/Where"),
        now=NOON,
    )
    assert [problem.code for problem in gone] == ["window"]
    assert "cannot be told" in gone[0].text


@given(st.text(min_size=1, max_size=12))
def test_a_person_is_not_taken_for_a_machine_by_a_name(name: str) -> None:
    assert is_unattended(name) is (name in (POLICY, "rollout") or name.startswith("rollout "))
