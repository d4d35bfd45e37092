"""`bramble policy` and `bramble lock`: what Bramble would do by itself and why not, who keeps others back."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fleet.cli.groups import HelpfulGroup
from fleet.cli.names import NODE, RenamedOption, file_option
from fleet.cli.nodes import cluster_file, reader_of
from fleet.cli.questions import require_yes
from fleet.cli.render import age, out
from fleet.policy.words import in_force_text, span_text

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
_LOCK: Final = "/v1/admin/lock"
_STYLES: Final = {"well": "green", "failing": "yellow", "act": "bold red", "held": "red", "busy": "cyan"}


@click.command()
@cluster_file
@_JSON
@click.option("--all", "everything", is_flag=True, help="Nodes that are well, too.")
def policy(file: Path, as_json: bool, everything: bool) -> None:
    """Show what Bramble would re-image by itself now, and of each failed node every reason why not.

    A node has failed when its agent is silent and Kubernetes says that it is not ready, both without a break
    for 'policy.reimage.after'. Nothing is done unless 'policy.reimage.when_failed' is true. The count begins
    anew when 'bramble serve' starts.

    \b
    bramble policy
    bramble policy --all
    bramble policy --json
    """
    view = reader_of(file).ask("GET", "/v1/admin/policy")
    if as_json:
        click.echo(json.dumps(view, indent=2))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(in_force_text(view))
    shown = [one for one in view["decisions"] if everything or one["verdict"] in ("failing", "act", "held")]
    for decision in shown:
        _print_decision(console, decision)
    if not shown:
        console.print("No node has failed.")


def _print_decision(console: Console, decision: Any) -> None:
    verdict = decision["verdict"]
    word = "would be re-imaged" if verdict == "held" and decision["would_act"] else verdict
    line = Text.assemble(
        (f"{decision['node']:<20} ", "bold"), (word, _STYLES.get(verdict, "")), f"  {decision['role']}"
    )
    if decision["due_in_s"] is not None:
        line.append(f", due in {span_text(decision['due_in_s'])}")
    console.print(line)
    for reason in decision["reasons"]:
        console.print(Text(f"    {reason['text']}"))
        if reason["hint"]:
            console.print(Text(f"      {reason['hint']}", style="yellow"))


@click.group(cls=HelpfulGroup)
def lock() -> None:
    """The fleet lock: which nodes are being re-imaged, and which of them keep others back."""


@lock.command()
@cluster_file
@_JSON
def show(file: Path, as_json: bool) -> None:
    """List who holds a place of the fleet lock.

    A re-image takes its place before its first check and keeps it until it has ended well. There is no time
    limit. One that came to nothing keeps back all nodes of its role until it is Ready after all, is
    decommissioned, or is released.

    \b
    bramble lock show
    bramble lock show --json
    """
    holds = reader_of(file).ask("GET", _LOCK)
    if as_json:
        click.echo(json.dumps(holds, indent=2))
        return
    if not holds:
        click.echo("Nobody holds the fleet lock.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("node", "role", "re-image", "since", "by", "state"):
        table.add_column(name, no_wrap=True)
    for hold in holds:
        state = f"{hold['state']}, came to nothing" if hold["stuck"] else hold["state"]
        since = age(time.time() - hold["taken_at"])
        table.add_row(hold["node"], hold["role"], str(hold["number"]), since, hold["by"], state)
    out().print(table)


@lock.command()
@click.argument("node", type=NODE)
@click.option(
    "--why",
    required=True,
    cls=RenamedOption,
    before="--reason",
    metavar="TEXT",
    help="For its timeline and the audit.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@file_option
def release(node: str, why: str, yes: bool, file: Path) -> None:
    """Let others be re-imaged although NODE, whose own re-image came to nothing, is still down.

    Refused while its re-image is under way: call that off with 'bramble cancel NODE'.

    \b
    bramble lock release pi4-worker-1 --why 'its board is dead, a new one is ordered'
    """
    reader = reader_of(file)
    if not yes and any(hold["node"] == node and hold["stuck"] for hold in reader.ask("GET", _LOCK)):
        # Of any other node it is refused, and there is nothing to ask.
        require_yes(f"Let other nodes be taken down while {node} is not back?", yes=False)
    path = f"{_LOCK}/{quote(node, safe='')}/release"
    click.echo(reader.ask("POST", path, {"reason": why})["message"])
