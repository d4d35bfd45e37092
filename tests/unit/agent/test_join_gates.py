"""What keeps k3s from starting, and how the disk is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.join_gates import find_data_disk, find_gates, find_under_voltage, measure_sync_ms, percentile
from agent.protocol import Problem


@pytest.mark.parametrize(
    ("throttled", "closed"),
    [(None, False), (0x0, False), (0x1, True), (0x50005, True), (0x50000, False), (0xE, False)],
    ids=["unknown", "fine", "now", "now-and-before", "only-before", "throttled-but-fed"],
)
def test_under_voltage_counts_while_it_lasts(throttled: int | None, closed: bool) -> None:
    problem = find_under_voltage(throttled)
    assert (problem is not None) is closed
    if problem is not None:
        assert problem.code == "under_voltage"
        assert "power supply" in problem.hint


def test_all_gates_are_told_at_once(tmp_path: Path) -> None:
    clock = Problem("clock", "m", "h")
    assert [gate.code for gate in find_gates(tmp_path, clock, 0x50005)] == [
        "cgroup_memory",
        "clock",
        "under_voltage",
    ]


def test_open_gates(tmp_path: Path) -> None:
    cgroup = tmp_path / "sys/fs/cgroup"
    cgroup.mkdir(parents=True)
    (cgroup / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    assert find_gates(tmp_path, None, 0) == ()


def test_disk_is_measured_where_k3s_writes_and_nothing_stays(tmp_path: Path) -> None:
    data = tmp_path / "var/lib/rancher"
    data.mkdir(parents=True)
    assert find_data_disk(tmp_path) == data
    measured = measure_sync_ms(data)
    assert measured is not None
    assert measured >= 0.0
    assert list(data.iterdir()) == []


def test_disk_that_can_not_be_written_is_not_measured(tmp_path: Path) -> None:
    assert measure_sync_ms(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("values", "expected"), [([], None), ([7.0], 7.0), ([float(n) for n in range(1, 101)], 99.0)]
)
def test_percentile(values: list[float], expected: float | None) -> None:
    assert percentile(values, 0.99) == expected
