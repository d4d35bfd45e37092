"""The benchmarks run: real servers and clients, small inputs, no figure looked at."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cases.dashboard import PAGES

pytestmark = pytest.mark.integration

CHECKOUT = Path(__file__).parents[3]
DEADLINE_S = 240
ROW = re.compile(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]*) \|$", re.MULTILINE)


def run_benchmarks(work: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "--work", str(work), *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_servers_are_measured_and_nothing_is_left_behind(tmp_path: Path) -> None:
    result = run_benchmarks(tmp_path, "--trial", *(f"--only={case}" for case in ("tftp", "http", "memory")))
    assert result.returncode == 0, result.stderr
    rows = [match.groups() for match in ROW.finditer(result.stdout)]
    ours = [figure for name, figure, *_rest in rows if name == "bramble"]
    assert len(ours) == 15  # TFTP: 5 ways with their cost, 2 without; HTTP twice; memory
    assert all(float(figure) > 0 for figure in ours), rows
    assert any(name == "python3 -m http.server" and float(figure) > 0 for name, figure, *_rest in rows)
    assert list(tmp_path.iterdir()) == []


def test_a_storm_of_boards_is_played_and_not_found_is_timed(tmp_path: Path) -> None:
    result = run_benchmarks(tmp_path, "--trial", "--only=storm", "--only=storm-large", "--only=notfound")
    assert result.returncode == 0, result.stderr
    rows = [match.groups() for match in ROW.finditer(result.stdout)]
    boards = [figure for name, figure, *_rest in rows if name.startswith("bramble")]
    assert len(boards) == 2 * 3 + 2 * 3 + 1
    assert all(float(figure) > 0 for figure in boards), rows


def test_the_dashboard_is_measured_with_a_browser_and_its_pages_keep_to_their_size(tmp_path: Path) -> None:
    result = run_benchmarks(tmp_path, "--trial", "--only=dashboard")
    assert result.returncode == 0, result.stderr
    rows = [match.groups() for match in ROW.finditer(result.stdout)]
    ours = [figure for name, figure, *_rest in rows if name.startswith("bramble")]
    assert len(ours) == 1 + 1 + len(PAGES)
    assert all(float(figure) > 0 for figure in ours), rows
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_the_base_gives_a_row_that_says_so(tmp_path: Path) -> None:
    result = run_benchmarks(tmp_path, "--trial", "--only=delta", "--store", str(tmp_path / "empty"))
    assert result.returncode == 0, result.stderr
    ((_name, figure, _span, _ratio, note),) = ROW.findall(result.stdout.partition("### delta")[2])
    assert figure == "–"
    assert "bramble base build debian-trixie" in note


def test_a_trial_never_gets_into_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("as it was")
    result = run_benchmarks(tmp_path, "--trial", "--only=http", "--update", str(page))
    assert result.returncode == 2
    assert page.read_text() == "as it was"
