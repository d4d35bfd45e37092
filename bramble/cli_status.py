"""`bramble status`: is everything all right? One screen, one exit code."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from fleet.cli.looking import View, view_of
from fleet.cli.names import cluster_file
from fleet.cli.nodes import WATCH_INTERVAL_S
from fleet.cli.render import age, state_text
from fleet.errors import FleetError, InputError

FINE: Final = 0
NEEDS_ATTENTION: Final = 1
CANNOT_TELL: Final = 2
SHOWN: Final = 6
"""Nodes that are named in one place: the whole has to fit on a screen, also with hundreds of nodes."""
ALIKE: Final = 3
"""Findings of one kind that are shown each by itself."""
_UNKNOWN: Final[Mapping[str, Any]] = {
    "live": False,
    "error": "",
    "hint": "",
    "nodes": None,
    "ready": None,
    "states": {},
    "findings": [],
    "quorum": None,
    "snapshots": None,
    "under_way": [],
    "awaited": [],
    "events": [],
}
"""The keys of `--json`, and what they are where nobody knows: those of `Overview`, and who told."""


@click.command()
@cluster_file
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--watch", is_flag=True, help="Keep the screen up to date until interrupted.")
@click.pass_context
def status(context: click.Context, file: Path, as_json: bool, watch: bool) -> None:
    """Say whether everything is all right: the server, the nodes, and what needs a person.

    Exits with 0 where nothing needs a person, with 1 where something does, and with 2 where nobody can tell:
    no server runs, or cluster.yaml cannot be used. What is known is shown then all the same.

    With --json the keys are always the same. What nobody knows is null or empty, and 'error' and 'hint' say
    why; 'live' is false where no server answered.

    \b
    bramble status
    bramble status --watch
    bramble status --json | jq -r '.findings[].command'
    bramble status > /dev/null || mail -s 'the cluster needs you' root < /dev/null
    """
    try:
        looking = view_of(file)
    except InputError as error:
        if not as_json:
            raise
        click.echo(json.dumps(_unknown(error), indent=2))
        context.exit(CANNOT_TELL)
    looking.warn()
    if watch and not as_json:
        with Live(console=Console(), auto_refresh=False) as live:
            while True:
                live.update(render(_look(looking), time.time()), refresh=True)
                time.sleep(WATCH_INTERVAL_S)
    while True:
        seen = _look(looking)
        if as_json:
            click.echo(json.dumps(seen, indent=None if watch else 2))
        else:
            Console().print(render(seen, time.time()), soft_wrap=True)
        if not watch:
            context.exit(exit_code(seen))
        time.sleep(WATCH_INTERVAL_S)


def exit_code(seen: Mapping[str, Any]) -> int:
    """FINE, NEEDS_ATTENTION or CANNOT_TELL."""
    if not seen["live"] or seen["error"]:
        return CANNOT_TELL
    return NEEDS_ATTENTION if seen["findings"] else FINE


def _look(looking: View) -> dict[str, Any]:
    """The overview, or why there is none: a person who asks for the status is answered, whatever happened."""
    try:
        known = _UNKNOWN | looking.reader.overview()
    except FleetError as error:
        return _unknown(error)
    fault = looking.fault
    return known if fault is None else {**known, "error": fault.message, "hint": fault.hint}


def _unknown(error: FleetError) -> dict[str, Any]:
    return {**_UNKNOWN, "error": error.message, "hint": error.hint}


def render(seen: Mapping[str, Any], now: float) -> RenderableType:
    """The screen."""
    if seen["nodes"] is None:
        return Group(Text(f"cannot tell: {seen['error']}", style="bold red"), Text(f"  {seen['hint']}"))
    parts: list[RenderableType] = [_headline(seen), _counts(seen)]
    quorum = seen["quorum"]
    if quorum is not None and quorum["members"]:
        spare = quorum["ready"] - quorum["needed"]
        degraded = quorum.get("degraded", 0)  # a server of before does not tell
        reserve = f"{spare} more may fail" if spare > 0 else "no more may fail" if not spare else "lost"
        if -degraded <= spare < 0:
            reserve = f"{degraded} degraded, which may be up"
        line = f"{quorum['ready']} of {quorum['members']} Ready, {quorum['needed']} needed: {reserve}"
        parts.append(Text.assemble(("servers  ", "bold"), line))
    snapshots = seen["snapshots"]
    if snapshots is not None and snapshots["newest_at"] is not None:
        line = f"{snapshots['count']} kept, the newest {age(now - snapshots['newest_at'])} old"
        parts.append(Text.assemble(("backups  ", "bold"), f"snapshots of etcd: {line}"))
    parts += [*_under_way(seen.get("under_way", ()), now), *_awaited(seen.get("awaited", ()))]
    parts += _findings(seen["findings"], now)
    if seen["events"]:
        parts += [Text(""), Text("last events", style="bold")]
        for event in seen["events"]:
            when = f"{age(now - event['at']):>7} ago  "
            who = f"{event['node'] or event['board'] or '':<15} "
            style = "bold red" if event["kind"] == "alarm" else ""
            parts.append(Text.assemble((when, "dim"), (who, "cyan"), (event["text"], style)))
    return Group(*parts)


def _under_way(nodes: Sequence[Mapping[str, Any]], now: float) -> Iterator[RenderableType]:
    """Who is being installed or taken down, one line each: the first of them where there are many."""
    for place, node in enumerate(nodes[:SHOWN]):
        line = Text.assemble(
            ("at work  " if place == 0 else f"{'':9}", "bold"), (f"{node['name']}  ", "cyan")
        )
        line.append_text(state_text(node["state"]))
        line.append(f" {node['detail']}" if node["detail"] else "").append(
            f"  ({age(now - node['since'])})", style="dim"
        )
        yield line
    if len(nodes) > SHOWN:
        yield Text(f"{'':9}and {len(nodes) - SHOWN} more: 'bramble nodes'")


def _awaited(names: Sequence[str]) -> Iterator[RenderableType]:
    """Whose boards were never heard of: nobody's fault, but they do not come by themselves."""
    if names:
        yield Text.assemble(
            ("awaited  ", "bold"), f"{_listed(names)}: switch {'it' if len(names) == 1 else 'them'} on"
        )


def _findings(found: Sequence[Mapping[str, Any]], now: float) -> Iterator[RenderableType]:
    """Each with its next step; of many of one kind the first, and the others by name."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for finding in found:
        kinds.setdefault(finding["code"], []).append(finding)
    for alike in kinds.values():
        shown = alike if len(alike) <= ALIKE else alike[:1]
        for finding in shown:
            style = "bold red" if finding["urgency"] == "now" else "yellow"
            since = "" if finding["since"] is None else f"  ({age(now - finding['since'])})"
            yield Text("")
            yield Text.assemble(("! ", style), (finding["text"], style), (since, "dim"))
            yield Text(f"  {finding['hint']}")
            if finding["command"]:
                yield Text(f"  $ {finding['command']}", style="cyan")
        if len(shown) < len(alike):
            names = [finding["subject"] for finding in alike[1:]]
            yield Text(f"  the same of {_listed(names)}")


def _listed(names: Sequence[str]) -> str:
    """Names in a row; of many only how many more there are."""
    more = f" and {len(names) - SHOWN} more ('bramble nodes')" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _headline(seen: Mapping[str, Any]) -> Text:
    if not seen["live"]:
        text = "cannot tell: no server is running; this is what the last one wrote"
        return Text(f"{text}\n  Start 'bramble serve', or 'systemctl start bramble'.", style="yellow")
    if seen["error"]:
        return Text("cannot tell: cluster.yaml cannot be used; this is what the server knows", style="yellow")
    count = len(seen["findings"])
    if not count and seen["ready"] == seen["nodes"]:
        return Text("everything is all right", style="bold green")
    if not count:
        return Text("nothing needs a person; not every node is Ready yet", style="bold green")
    return Text(f"{count} {'thing needs' if count == 1 else 'things need'} a person", style="bold red")


def _counts(seen: Mapping[str, Any]) -> Text:
    line = Text.assemble(("nodes    ", "bold"), f"{seen['ready']} of {seen['nodes']} Ready")
    others = {state: count for state, count in seen["states"].items() if state != "ready"}
    for number, (state, count) in enumerate(others.items()):
        line.append(";  " if number == 0 else ", ")
        line.append(f"{count} ")
        line.append_text(state_text(state))
    return line
