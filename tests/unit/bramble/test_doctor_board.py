"""What `bramble doctor --board` says, from a timeline."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from bramble.doctor.board import read_report
from bramble.doctor.render import render_board

FINDING = {
    "rule": "file-timeout",
    "severity": "error",
    "cause": "too slow [red]x[/]",
    "mend": "a better cable",
    "evidence": [{"at": 90.0, "text": "asked for installer.img"}],
}
NODE = {"name": "pi5-1", "board": "pi5"}


def event(at: float, kind: str, text: str, detail: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"id": int(at), "at": at, "kind": kind, "text": text, "hint": "", "detail": detail or {}}


def timeline(*events: dict[str, Any]) -> dict[str, Any]:
    return {"node": NODE, "board": None, "facts": {}, "events": list(events)}


def test_the_newest_of_each_rule_is_shown_with_its_evidence() -> None:
    report = read_report(
        timeline(
            event(100, "diagnosis", "x", {**FINDING, "cause": "old"}),
            event(200, "diagnosis", "x", FINDING),
            event(210, "boot", "asks for an address"),
        )
    )
    assert [(one["rule"], one["cause"], one["past"]) for one in report.findings] == [
        ("file-timeout", "too slow [red]x[/]", False)
    ]
    assert report.is_ill
    stream = io.StringIO()
    Console(file=stream, width=200, color_system=None).print(render_board(report, 260.0))
    text = stream.getvalue()
    for part in ("node pi5-1", "60 s ago", "too slow [red]x[/]", "asked for installer.img", "a better cable"):
        assert part in text
    assert "last sign 50 s ago: asks for an address" in text


def test_what_was_before_a_good_installation_is_history() -> None:
    report = read_report(
        timeline(
            event(100, "diagnosis", "x", FINDING),
            event(300, "install", "installed and verified: 1 MB in 1 s"),
        )
    )
    assert report.findings[0]["past"]
    assert not report.is_ill


def test_a_board_without_complaints_and_one_that_was_never_seen() -> None:
    well = read_report(timeline(event(100, "boot", "asks for an address")))
    assert (well.findings, well.last_text) == ((), "asks for an address")
    unseen = read_report(timeline(event(1, "state", "declared in cluster.yaml")))
    stream = io.StringIO()
    Console(file=stream, width=300, color_system=None).print(render_board(unseen, 10.0))
    assert "never seen" in stream.getvalue()
