"""Tables and timelines as text, from the JSON values of `fleet.views`, and the console that shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

UNBROKEN: Final = 1000
"""Columns that no table of ours has."""
MENDS: Final = 6
"""Nodes below a table of which it is said what to do; of the others 'bramble show' tells."""
_STYLES: Final = {
    "ready": "bold green",
    "degraded": "yellow",
    "pending": "bold yellow",
    "lost": "red",
    "quarantined": "bold red",
    "declared": "dim",
    "decommissioned": "dim",
}


def out() -> Console:
    """Prints to stdout. Where that is no terminal no line of a table is broken: `grep` finds it whole."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=UNBROKEN)


def render_fleet(view: Mapping[str, Any], now: float) -> RenderableType:
    """The table of nodes, and under it the boards that are held."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("name", "board", "role", "state", "since", "detail", "k3s"):
        table.add_column(name, no_wrap=name != "detail", overflow="fold")
    for node in view["nodes"]:
        table.add_row(
            node["name"],
            node["board"],
            node["role"],
            state_text(node["state"]),
            age(now - node["since"]),
            _detail(node),
            node["k3s"],
        )
    parts: list[RenderableType] = [table, *_mends(view["nodes"])]
    if view["held"]:
        held = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("held board", "model", "MAC", "last seen", "why"):
            held.add_column(name, overflow="fold")
        for board in view["held"]:
            held.add_row(
                board["board"],
                Text(board["model"]),
                ", ".join(board["macs"]),
                f"{age(now - board['last_seen'])} ago",
                board["reason"],
            )
        parts += [Text(""), held]
    waiting = [node["name"] for node in view["nodes"] if node["state"] == "pending"]
    if waiting:
        hint = f"'bramble approve {waiting[0]}' lets it in, when the key on its screen is the one shown here."
        parts += [Text(""), Text(hint)]
    if not view["live"]:
        parts += [Text(""), Text("No server is running; this is what the last one wrote.", style="yellow")]
    return Group(*parts)


def _detail(node: Mapping[str, Any]) -> Text:
    """What it does or what ails it; first of all that it is revoked (a server of before does not tell)."""
    told = Text(node["detail"] or ", ".join(held["words"] for held in node.get("conditions", ())))
    if not node.get("revoked"):
        return told
    return Text.assemble(("revoked", "bold red"), "; " if told else "", told)


def _mends(nodes: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """What to do about the nodes whose installation, or the like, has failed."""
    found = [node for node in nodes if node.get("mend")]  # a server of before does not tell
    lines: list[RenderableType] = [Text("")] if found else []
    for node in found[:MENDS]:
        lines.append(Text.assemble((node["name"], "bold"), f": {node['complaint']}"))
        lines.append(Text(f"  {node['mend']}", style="yellow"))
    if len(found) > MENDS:
        lines.append(Text(f"and {len(found) - MENDS} more: 'bramble show NODE'"))
    return lines


def render_timeline(timeline: Mapping[str, Any], now: float) -> RenderableType:
    """Facts of a node or a held board, then its timeline; seconds count from its first sign of life."""
    parts: list[RenderableType] = []
    node, board = timeline["node"], timeline["board"]
    if node is not None:
        title = Text.assemble((node["name"], "bold"), "  ", state_text(node["state"]))
        title.append(f" for {age(now - node['since'])}")
        if node["detail"] or node.get("revoked"):
            title.append("  ").append_text(_detail(node))
        parts.append(title)
    elif board is not None:
        why = f"held: {board['reason']}" if board["reason"] else "a board that was seen"
        parts.append(Text.assemble((board["board"], "bold"), f"  {why}"))
        parts.append(Text(board["model"]))
    parts += [Text(f"  {name}: {value}") for name, value in timeline["facts"].items()]
    for held in node.get("conditions", ()) if node is not None else ():
        style = "bold red" if held["degrades"] else "yellow"
        what = f"  {held['words']} for {age(now - held['since'])}: {held['evidence']}"
        parts.append(Text(f"{what}\n    {held['hint']}", style=style))
    if timeline["events"]:
        first = first_sign(timeline["events"])
        parts.append(Text(f"\n  from {datetime.fromtimestamp(first):%Y-%m-%d %H:%M:%S}", style="dim"))
        parts += [event_text(event, first) for event in timeline["events"]]
    return Group(*parts)


def first_sign(events: Sequence[Mapping[str, Any]]) -> float:
    """When the story begins: a node may have been declared long before its board was first switched on."""
    at: float = next((event["at"] for event in events if event["kind"] != "state"), events[0]["at"])
    return at


def event_text(event: Mapping[str, Any], first: float) -> Text:
    """One line of a timeline, and its hint on the next."""
    style = {"alarm": "bold red", "diagnosis": "bold"}.get(event["kind"], "")
    line = Text.assemble((f"{event['at'] - first:>+10.1f} s  ", "dim"), (f"{event['kind']:<10}", "cyan"))
    line.append(event["text"], style=style)
    if event["hint"]:
        line.append(f"\n{'':25}{event['hint']}", style="yellow")
    return line


def state_text(state: str) -> Text:
    style = _STYLES.get(state, "red" if state.startswith("failed-") else "cyan")
    return Text(state, style=style)


def age(seconds: float) -> str:
    """`12 s`, `3 min`, `5 h`, `9 d`."""
    seconds = max(seconds, 0.0)
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds // 86_400:.0f} d"
