"""Figures in a page, and the order in which they are taken."""

from __future__ import annotations

import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.measure import Better, Row, Subject, Table, interleave
from benchmarks.report import BEGIN, END, Heading, format_figure, render_run, replace_section


def heading(*, trial: bool = False) -> Heading:
    return Heading(
        date="2026-11-21",
        machine="a processor, 2 cores, 24 GiB",
        kernel="Linux 6",
        load="0.00 0.00 0.00",
        rounds=5,
        versions={"curl": "8", "bramble": "0.1"},
        trial=trial,
    )


def table(*rows: Row) -> Table:
    return Table(title="HTTP", unit="MB/s", better=Better.HIGHER, work="A file.", rows=rows)


def line(text: str, name: str) -> list[str]:
    """The cells of a row."""
    found = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in found.split("|")[1:-1]]


def test_subjects_take_turns_after_one_round_that_does_not_count() -> None:
    order: list[str] = []

    def subject(name: str) -> Subject:
        def measure() -> float:
            order.append(name)
            return float(len(order))

        return Subject(name=name, measure=measure, note=name)

    rows = interleave([subject("a"), subject("b")], 3)
    assert "".join(order) == "ab" + "ababab"
    assert [row.samples for row in rows] == [(3.0, 5.0, 7.0), (4.0, 6.0, 8.0)]
    assert rows[1].note == "b"


def test_a_row_shows_median_span_and_proportion_to_the_first() -> None:
    text = render_run(
        heading(), [table(Row(name="bramble", samples=(100, 300, 200)), Row(name="peer", samples=(50,)))]
    )
    assert line(text, "bramble") == ["bramble", "200", "100–300", "1", ""]
    assert line(text, "peer") == ["peer", "50.0", "50.0–50.0", "0.250", ""]


def test_a_peer_that_is_not_there_has_no_figures() -> None:
    text = render_run(
        heading(), [table(Row(name="bramble", samples=(1,)), Row(name="peer", note="not installed"))]
    )
    assert line(text, "peer") == ["peer", "–", "–", "–", "not installed"]


def test_without_figures_of_ours_there_is_no_proportion() -> None:
    text = render_run(heading(), [table(Row(name="bramble", note="no base"), Row(name="peer", samples=(5,)))])
    assert line(text, "peer")[3] == "–"


def test_the_heading_names_machine_and_versions() -> None:
    text = render_run(heading(), [])
    assert "a processor, 2 cores, 24 GiB" in text
    assert "Versions: bramble 0.1, curl 8." in text


@pytest.mark.parametrize("trial", [True, False])
def test_only_a_trial_run_is_called_one(trial: bool) -> None:
    assert ("trial" in render_run(heading(trial=trial), [])) is trial


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.0412, "0.0412"), (3.071, "3.07"), (11.84, "11.8"), (118.4, "118"), (1240.0, "1240")],
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert format_figure(value) == text


def test_only_what_is_between_the_markers_is_replaced() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert replace_section(page, "new\n") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"


def test_replacing_twice_is_replacing_once() -> None:
    once = replace_section(f"{BEGIN}\n{END}\n", "new")
    assert replace_section(once, "new") == once


@pytest.mark.parametrize("page", ["", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}\n{END}\n{BEGIN}\n{END}"])
def test_a_page_without_its_markers_is_left_alone(page: str) -> None:
    with pytest.raises(BenchmarkError, match="markers"):
        replace_section(page, "new")
