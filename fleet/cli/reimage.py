"""`bramble reimage`, `replace`, `decommission`, `cancel`: taking a node down, and calling that off."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

import click
from rich.console import Console
from rich.text import Text

from fleet.admin_client import FleetReader
from fleet.cli.names import NODE, file_option
from fleet.cli.nodes import reader_of
from fleet.cli.progress import ProgressLine
from fleet.cli.questions import require_yes
from fleet.cli.render import event_text
from fleet.errors import FleetError

POLL_S: Final = 1.0
EXIT_REFUSED: Final = 1
_MEASURED: Final = re.compile(r"(.+) (\d{1,3}) %")
"""What a node's detail says while its disk is written or read back. Source: `fleet.installs`."""
Command = TypeVar("Command", bound=Callable[..., Any])

_DRY_RUN = click.option("--dry-run", is_flag=True, help="Show what would be done and what stands against it.")
_YES = click.option("--yes", is_flag=True, help="Do not ask.")
_WAIT = click.option("--wait", is_flag=True, help="Follow it to its end; exits with 1 unless that is good.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
_WHY = click.option("--why", default="", metavar="TEXT", help="For the timeline and the audit.")
_FORCE = click.option(
    "--force-drain",
    is_flag=True,
    help="Give up what would hold it back: pods that do not leave in ten minutes are deleted, and pods that "
    "nothing makes anew, and volumes on its disk, are lost.",
)


def _options(command: Command) -> Command:
    for option in (file_option, _JSON, _WAIT, _YES, _DRY_RUN, _WHY, _FORCE):
        command = option(command)
    return command


@click.command()
@click.argument("node", type=NODE)
@click.option("--image", metavar="ID", help="Of the image to install, in place of the cluster's.")
@_options
def reimage(node: str, image: str | None, **options: Any) -> None:
    """Install NODE again: empty it, take it out of its cluster, write its disk, let it join anew.

    Nothing is begun that would break etcd's quorum or lose data that is nowhere else: what stands against it
    is shown, all at once, and nothing is changed. What was begun goes on by itself, also over a restart of
    the server; the same command again shows where it is, and tries a step again that gave up. Until its etcd
    member or Node object is removed it can be called off with 'bramble cancel'.

    \b
    bramble reimage pi4-worker-1 --dry-run
    bramble reimage pi4-worker-1 --why 'its card is worn' --wait
    bramble reimage pi4-worker-1 --force-drain --yes
    """
    _order("reimage", node, {"image": image}, f"Install {node} again? Its disk is overwritten.", **options)


@click.command()
@click.argument("node", type=NODE)
@click.option(
    "--with", "serial", required=True, metavar="SERIAL", help="Of the new board: 8 or 16 hex digits."
)
@_options
def replace(node: str, serial: str, **options: Any) -> None:
    """Give the name and place of NODE, whose board is dead, to the board with another SERIAL.

    The old board, its disk and its keys count for nothing from then on, and never again. Write the new serial
    into cluster.yaml when it is done; until then the order stands in for it.

    \b
    bramble replace pi4-worker-1 --with 10000000d03114bb --wait
    """
    question = f"Make the board {serial} the node {node}? The old board is turned away for good."
    _order("replace", node, {"serial": serial}, question, **options)


@click.command()
@click.argument("node", type=NODE)
@_options
def decommission(node: str, **options: Any) -> None:
    """Take NODE out of its cluster for good: emptied, removed, revoked, and not answered any more.

    Its disk keeps what is on it. To have it back, take it out of cluster.yaml, 'bramble apply', and declare
    it again.

    \b
    bramble decommission pi4-worker-1 --dry-run
    bramble decommission pi4-worker-1 --yes --wait
    """
    _order("decommission", node, {}, f"Take {node} out of the cluster for good?", **options)


@click.command()
@click.argument("node", type=NODE)
@_JSON
@file_option
def cancel(node: str, as_json: bool, file: Path) -> None:
    """Call off what was ordered of NODE, as long as nothing was removed; it becomes what it was.

    A cordon is taken back if the order made it, and left if somebody else did.

    \b
    bramble cancel pi4-worker-1
    """
    answer = reader_of(file).ask("POST", f"/v1/admin/nodes/{quote(node, safe='')}/cancel")
    click.echo(json.dumps(answer, indent=2) if as_json else answer["message"])


def _order(
    kind: str,
    node: str,
    more: Mapping[str, Any],
    question: str,
    *,
    force_drain: bool,
    why: str,
    dry_run: bool,
    yes: bool,
    wait: bool,
    as_json: bool,
    file: Path,
) -> None:
    reader = reader_of(file)
    path = f"/v1/admin/nodes/{quote(node, safe='')}/reimage"
    wanted = {"kind": kind, "force_drain": force_drain, "why": why, **more}
    console = Console(highlight=False, soft_wrap=True, stderr=as_json)
    if dry_run or not yes:
        shown = reader.ask("POST", path, {**wanted, "dry_run": True})
        if not as_json:
            _print(console, shown)
        if dry_run:
            if as_json:
                click.echo(json.dumps(shown, indent=2))
            sys.exit(EXIT_REFUSED if shown["problems"] else 0)
        if not shown["problems"]:
            require_yes(question, yes=yes, otherwise="Look with --dry-run, and answer with --yes.")
    newest = _newest(reader, node)
    answer = reader.ask("POST", path, wanted)
    if not as_json:
        click.echo(answer["message"])
    number = answer["number"]
    order = None if number is None else _find(reader, node, number)
    if order is not None and wait:
        # Elsewhere than on a terminal the timeline tells each step.
        with ProgressLine(show=not as_json and sys.stderr.isatty()) as line:
            order = _follow(reader, node, number, newest, console, line)
    if as_json:
        click.echo(json.dumps({**answer, "order": order}, indent=2))
    if wait and order is not None and order["outcome"] != "done":
        raise FleetError(
            f"{node}: {kind} {order['outcome']}: {order['reason']}",
            f"'bramble show {node}' has its timeline.",
        )


def _print(console: Console, shown: Mapping[str, Any]) -> None:
    if not shown["problems"]:
        console.print(Text(f"steps: {' → '.join(shown['steps'])}"))
    for sign, style, name in (("!", "red", "problems"), ("~", "yellow", "warnings")):
        for problem in shown[name]:
            console.print(Text(f"{sign} {problem['text']}", style=style))
            if problem["hint"]:
                console.print(Text(f"    {problem['hint']}"))
    if shown["problems"]:
        console.print(Text("it stays as it is: what is marked with ! stands against it"))


def _find(reader: FleetReader, node: str, number: int) -> dict[str, Any]:
    found: list[dict[str, Any]] = reader.look(f"/v1/admin/reimages?node={quote(node, safe='')}")
    return next(order for order in found if order["number"] == number)


def _newest(reader: FleetReader, node: str) -> int:
    return max((event["id"] for event in reader.timeline(node)["events"]), default=0)


def _follow(
    reader: FleetReader, node: str, number: int, newest: int, console: Console, line: ProgressLine
) -> dict[str, Any]:
    """Show the timeline as it grows, each new reason to wait, and how far the installation is, until the
    order has ended."""
    began, said = time.time(), ""
    while True:
        order = _find(reader, node, number)
        seen = reader.timeline(node, newest)
        for event in seen["events"]:
            line.clear()
            console.print(event_text(event, began))
            newest = max(newest, event["id"])
        if order["closed_at"] is not None:
            return order
        if order["reason"] and order["reason"] != said:
            said = order["reason"]
            line.clear()
            console.print(Text(f"{'':13}waits: {said}", style="dim"))
        if measured := _MEASURED.fullmatch(seen["node"]["detail"]):
            line.update(f"{node}: {measured[1]}", int(measured[2]) / 100)
        time.sleep(POLL_S)
