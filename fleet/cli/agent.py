"""`bramble agent`: which release of the agent each node runs, and bringing them up to date in waves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from fleet.cli.groups import HelpfulGroup
from fleet.cli.names import NODE, cluster_file, file_option
from fleet.cli.nodes import reader_of
from fleet.cli.questions import require_yes
from fleet.cli.render import out


@click.group(cls=HelpfulGroup)
def agent() -> None:
    """The agent on the nodes: which release runs where, and updates."""


@agent.command()
@cluster_file
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def status(file: Path, as_json: bool) -> None:
    """Show every node's agent, and how the last update goes.

    \b
    bramble agent status
    bramble agent status attic.yaml --json
    """
    view = reader_of(file).ask("GET", "/v1/admin/agents")
    if as_json:
        click.echo(json.dumps(view, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("name", "state", "agent", "release", ""):
        table.add_column(name, no_wrap=True)
    for node in view["nodes"]:
        told = "told to update" if node["told"] else "waits for its turn" if node["targeted"] else "older"
        note = "" if node["current"] or not node["version"] else told
        table.add_row(node["name"], node["state"], node["version"] or "-", node["release"][:12] or "-", note)
    console = out()
    console.print(table)
    offer, rollout = view["offer"], view["rollout"]
    console.print(f"\nThis server carries agent {offer['version']}, release {offer['release'][:12]}.")
    if rollout is not None:
        console.print(describe(rollout))


def describe(rollout: dict[str, Any]) -> str:
    """One line about a rollout."""
    counts = f"{rollout['taken']} of {rollout['targets']} node(s) run it, {rollout['told']} were told"
    done = "; done" if rollout["done"] else ""
    end = f"; halted: {rollout['halted']}" if rollout["halted"] else done
    return f"Order {rollout['number']}, agent {rollout['version']}: {counts}{end}."


@agent.command()
@click.argument("nodes", nargs=-1, type=NODE)
@click.option("--all", "everywhere", is_flag=True, help="Every node whose agent has reported.")
@click.option("--allow-downgrade", is_flag=True, help="Also where a newer version runs.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@file_option
def update(nodes: tuple[str, ...], everywhere: bool, allow_downgrade: bool, yes: bool, file: Path) -> None:
    """Let NODES run this server's release of the agent.

    One node is told first, then a tenth of the others, then all; servers come last and one at a time. The
    next wave waits until those before have reported the new release for a minute. A node goes back by itself
    when the new release is not heard by this server within ten minutes; then nobody else is told.

    \b
    bramble agent update pi4-worker-1
    bramble agent update --all
    """
    if bool(nodes) == everywhere:
        raise click.UsageError("Name nodes, or say --all.")
    reader = reader_of(file)
    if not yes:
        view = reader.ask("GET", "/v1/admin/agents")
        if {node["name"] for node in view["nodes"]}.issuperset(nodes):  # else the server says who was meant
            where, version = ", ".join(nodes) or "all nodes", view["offer"]["version"]
            require_yes(f"Update the agent on {where} to {version}?", yes=False)
    value = {"nodes": list(nodes), "allow_downgrade": allow_downgrade}
    click.echo(reader.ask("POST", "/v1/admin/agents/update", value)["message"])


@agent.command()
@cluster_file
def halt(file: Path) -> None:
    """Tell no further node of the update that is under way.

    \b
    bramble agent halt
    """
    click.echo(reader_of(file).ask("POST", "/v1/admin/agents/halt", {})["message"])
