"""Samples, and the order in which they are taken. Pure, apart from what the subjects do."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum


class Better(Enum):
    """Which of two figures is the better one."""

    HIGHER = "higher is better"
    LOWER = "lower is better"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One thing to measure.

    Attributes:
        name: as it stands in the table.
        measure: does the work once, checks what came of it, and returns the figure in the table's unit.
        note: what a reader has to know to compare it with the others.
    """

    name: str
    measure: Callable[[], float]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The figures of one subject; without samples the note says why there are none."""

    name: str
    samples: tuple[float, ...] = ()
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One comparison. The first row is Bramble, and the others are set in proportion to it.

    Attributes:
        work: what each subject did, and what was checked.
    """

    title: str
    unit: str
    better: Better
    work: str
    rows: tuple[Row, ...]


def interleave(subjects: Sequence[Subject], rounds: int) -> tuple[Row, ...]:
    """Measure in turns (A B A B …), so that what else the machine does hits all of them alike.

    Every subject runs once before, unmeasured: that fills the page cache and shows what does not work.
    """
    for subject in subjects:
        subject.measure()
    samples: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    for _ in range(rounds):
        for subject in subjects:
            samples[subject.name].append(subject.measure())
    return tuple(
        Row(name=subject.name, samples=tuple(samples[subject.name]), note=subject.note)
        for subject in subjects
    )
