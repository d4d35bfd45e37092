"""What the server's diagnosis found about one board, out of its timeline. Pure: JSON values in,
values out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

WELL: Final = ("installed and verified", "Ready, says")
"""Texts of timeline entries after which earlier complaints about booting are history."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardReport:
    """One board.

    Args:
        title: who it is, in words.
        findings: JSON values as `bramble.boot_table.finding_json` makes them, with `at` and `past` (it has
            booted well since); the newest of each rule, what still stands first.
        last_at: UTC seconds of its last sign; None where there was none.
        last_text: that sign.
    """

    title: str
    findings: tuple[Mapping[str, Any], ...]
    last_at: float | None
    last_text: str

    @property
    def is_ill(self) -> bool:
        """Whether an error still stands."""
        return any(one["severity"] == "error" and not one["past"] for one in self.findings)


def read_report(timeline: Mapping[str, Any]) -> BoardReport:
    """The report about the board or node of a timeline."""
    node, board, events = timeline["node"], timeline["board"], timeline["events"]
    well_at = max((event["at"] for event in events if event["text"].startswith(WELL)), default=float("-inf"))
    newest: dict[str, dict[str, Any]] = {}
    for event in events:
        if event["kind"] == "diagnosis" and "rule" in event["detail"]:
            past = event["at"] < well_at
            newest[event["detail"]["rule"]] = {**event["detail"], "at": event["at"], "past": past}
    findings = sorted(newest.values(), key=lambda one: (one["past"], -one["at"]))
    signs = [event for event in events if event["kind"] not in ("diagnosis", "state")]
    return BoardReport(
        title=f"node {node['name']} ({node['board']})" if node else f"{board['board']}, {board['model']}",
        findings=tuple(findings),
        last_at=signs[-1]["at"] if signs else None,
        last_text=signs[-1]["text"] if signs else "",
    )
