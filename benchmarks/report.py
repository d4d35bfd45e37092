"""Tables as Markdown, and their place in the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.errors import BenchmarkError
from benchmarks.measure import Row, Table

BEGIN: Final = "<!-- figures: begin (written by python -m benchmarks --update; do not edit) -->"
END: Final = "<!-- figures: end -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """Where and when a run took place.

    Attributes:
        date: ISO 8601 day.
        versions: program → version, of everything that was measured or measured with.
        trial: whether the run was a small one, to see that the benchmarks work.
    """

    date: str
    machine: str
    kernel: str
    load: str
    rounds: int
    versions: Mapping[str, str]
    trial: bool


def render_run(heading: Heading, tables: Iterable[Table]) -> str:
    """A whole run."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(heading.versions.items()))
    lines = [
        f"Measured on {heading.date} on {heading.machine}, {heading.kernel}, load average at the start "
        f"{heading.load}. Median of {heading.rounds} interleaved rounds after one unmeasured round, with the "
        "smallest and the largest. “÷ Bramble” is a row's median over that of the first row.",
        "",
        f"Versions: {versions}.",
        "",
    ]
    if heading.trial:
        lines[:0] = ["**A small trial run: these figures say only that the benchmarks work.**", ""]
    for table in tables:
        lines += [*_table_lines(table), ""]
    return "\n".join(lines)


def _table_lines(table: Table) -> list[str]:
    first = table.rows[0]
    return [
        f"### {table.title}",
        "",
        table.work,
        "",
        f"| | {table.unit}, {table.better.value} | min–max | ÷ Bramble | |",
        "|---|---:|---:|---:|---|",
        *(_row_line(row, first) for row in table.rows),
    ]


def _row_line(row: Row, first: Row) -> str:
    if not row.samples:
        return f"| {row.name} | – | – | – | {row.note} |"
    span = f"{format_figure(min(row.samples))}–{format_figure(max(row.samples))}"
    ratio = "1" if row is first else format_figure(row.median / first.median) if first.samples else "–"
    return f"| {row.name} | {format_figure(row.median)} | {span} | {ratio} | {row.note} |"


def format_figure(value: float) -> str:
    """Three significant digits, never in powers of ten: 0.0412, 3.07, 118, 1240."""
    if value == 0:
        return "0"
    digits = 2
    size = abs(value)
    while size >= 10 and digits > 0:
        size /= 10
        digits -= 1
    while size < 1:
        size *= 10
        digits += 1
    return f"{value:.{digits}f}"


def replace_section(page: str, section: str) -> str:
    """The page with another text between its two markers.

    Raises:
        BenchmarkError: the page does not have them, in this order and once each.
    """
    before, found_begin, rest = page.partition(BEGIN)
    _old, found_end, after = rest.partition(END)
    if not found_begin or not found_end or BEGIN in after or END in after:
        raise BenchmarkError(
            "the page does not hold the two markers of the figures, once each and in order",
            f"Put these lines where the figures belong:\n{BEGIN}\n{END}",
        )
    return f"{before}{BEGIN}\n\n{section.strip()}\n\n{END}{after}"
