"""What can be wrong with a cluster.yaml: problems with a place, a reason and a mend."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from fleet.errors import InputError


class Severity(StrEnum):
    """An error stops the cluster from loading; a warning is printed and lived with."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong, or unwise, in one place.

    Attributes:
        line: Counted from 1.
        key: Dotted place in the document, `nodes[3].mac`; empty for the document as a whole.
        message: What was found and what was expected. It never quotes a secret.
        hint: What to do; may be empty.
    """

    file: Path
    line: int
    key: str
    message: str
    hint: str
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " + (f"{self.key}: " if self.key else "")
        kind = "warning: " if self.severity is Severity.WARNING else ""
        return f"{place}{kind}{self.message}." + (f" {self.hint}" if self.hint else "")

    def to_json(self) -> dict[str, str | int]:
        return {
            "file": str(self.file),
            "line": self.line,
            "key": self.key,
            "severity": self.severity.value,
            "message": self.message,
            "hint": self.hint,
        }


def sort_problems(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Order by place in the file, each problem once."""
    unique = dict.fromkeys(problems)
    return tuple(sorted(unique, key=lambda problem: (problem.line, problem.key, problem.message)))


class SpecErrors(InputError):
    """A cluster.yaml that cannot be used; carries every problem found, warnings included.

    Attributes:
        problems: Sorted by line.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sort_problems(problems)
        errors = [problem for problem in self.problems if problem.severity is Severity.ERROR]
        file = self.problems[0].file
        count = f"{len(errors)} error{'' if len(errors) == 1 else 's'}"
        listing = "\n".join(str(problem) for problem in errors)
        super().__init__(f"{file} has {count}\n{listing}", f"Mend them and run 'bramble check {file}'.")
