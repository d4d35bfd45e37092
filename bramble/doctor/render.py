"""Results as text on a terminal. Prints nothing itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from bramble.doctor.board import BoardReport
from bramble.doctor.report import Check, Status
from fleet.cli.render import age
from fleet.printable import printable

_STYLES: Final = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red", Status.SKIP: "dim"}
_SEVERITIES: Final = {"error": "bold red", "warning": "yellow", "info": "cyan"}


def render_checks(checks: Sequence[Check]) -> RenderableType:
    """One line for each check; evidence and mend below it."""
    lines: list[RenderableType] = []
    for check in checks:
        lines.append(
            Text.assemble((f"{check.status.value:<5}", _STYLES[check.status]), printable(check.text))
        )
        if check.status in (Status.WARN, Status.FAIL):
            lines += _indented(check.evidence, "dim")
        if check.mend:
            lines += _indented((check.mend,), "yellow" if check.status is not Status.SKIP else "dim")
    return Group(*lines)


def render_board(report: BoardReport, now: float) -> RenderableType:
    """Findings with what shows them."""
    lines: list[RenderableType] = [Text(printable(report.title), style="bold")]
    for finding in report.findings:
        past = " (before it last booted well)" if finding["past"] else ""
        severity = finding["severity"]
        lines.append(
            Text.assemble(
                (f"{severity:<8}", "dim" if past else _SEVERITIES.get(severity, "")),
                f"{finding['rule']}, {age(now - finding['at'])} ago{past}: ",
                printable(finding["cause"]),
            )
        )
        seen = (f"{datetime.fromtimestamp(one['at']):%H:%M:%S}  {one['text']}" for one in finding["evidence"])
        lines += _indented(seen, "dim")
        lines += _indented((finding["mend"],), "yellow")
    if not report.findings:
        lines.append(Text("nothing that keeps it from booting was seen"))
    if report.last_at is not None:
        lines.append(Text(f"last sign {age(now - report.last_at)} ago: {printable(report.last_text)}"))
    else:
        lines.append(
            Text(
                "it was never seen: it is off, its network cable or port is dead, the network is not in its "
                "BOOT_ORDER, or it is on another network. 'bramble doctor' checks this machine's part.",
                style="yellow",
            )
        )
    return Group(*lines)


def _indented(texts: Iterable[str], style: str) -> list[RenderableType]:
    return [Text(f"     {printable(text)}", style=style) for text in texts]
