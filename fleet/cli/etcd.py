"""`bramble etcd`: who the members of the cluster's etcd are, and taking out what is left over."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
from rich.table import Table

from fleet.cli.groups import HelpfulGroup
from fleet.cli.names import cluster_file, file_option
from fleet.cli.nodes import reader_of
from fleet.cli.questions import require_yes
from fleet.cli.render import out
from fleet.errors import FleetError
from fleet.printable import counted

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")


@click.group(cls=HelpfulGroup)
def etcd() -> None:
    """The etcd that holds the cluster's state: its members, and which of them are left over."""


@etcd.command()
@cluster_file
@_JSON
def show(file: Path, as_json: bool) -> None:
    """Ask every member of etcd how it is. Exits with 1 where one is not well, or is left over.

    \b
    bramble etcd show
    bramble etcd show --json | jq -r '.members[] | select(.is_leader).node'
    """
    status = reader_of(file).ask("GET", "/v1/etcd")
    members = status["members"]
    is_well = status["is_quorate"] and not status["strangers"]
    is_well = is_well and all(one["healthy"] and not one["ghost"] for one in members)
    if as_json:
        click.echo(json.dumps(status, indent=2))
        sys.exit(0 if is_well else 1)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("member", "node", "role", "health", "database", "id"):
        table.add_column(name, no_wrap=name != "health")
    for one in members:
        role = "leader" if one["is_leader"] else one["role"]
        size = f"{one['db_bytes'] / (1 << 20):.1f} MiB" if one["db_bytes"] else "-"
        table.add_row(one["name"] or "-", one["node"] or "-", role, one["problem"] or "well", size, one["id"])
    out().print(table)
    if not status["is_quorate"]:
        click.echo("etcd has no quorum: this is what one member remembers.")
    for where in status["strangers"]:
        click.echo(f"{where}: etcd of another cluster answers there")
    for one in members:
        if one["ghost"]:
            click.echo(f"{one['ghost']}\n  {one['hint']}")
    sys.exit(0 if is_well else 1)


@etcd.command()
@click.argument("member", metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@file_option
@_JSON
def remove(member: str, yes: bool, file: Path, as_json: bool) -> None:
    """Take member ID out of etcd: one that 'bramble etcd show' calls left over, and no other.

    It is refused for members of declared servers, and where the others would not be enough.

    \b
    bramble etcd remove 8e9e05c52164694d
    """
    reader = reader_of(file)
    if not yes:
        require_yes(_removal(reader.ask("GET", "/v1/etcd")["members"], member), yes=False)
    path = f"/v1/etcd/members/{quote(member, safe='')}/remove"
    answer = reader.ask("POST", path)
    click.echo(json.dumps(answer) if as_json else answer["message"])


def _removal(members: list[dict[str, Any]], wanted: str) -> str:
    """What taking a member out comes to, as a question.

    Raises:
        FleetError: It would be refused.
    """
    found = next((one for one in members if one["id"].lstrip("0") == wanted.lower().lstrip("0")), None)
    if found is None:
        raise FleetError(f"etcd has no member {wanted}", "'bramble etcd show' lists them.")
    against = found.get("against_removal")  # a server of before does not tell
    if against is not None:
        raise FleetError(against["text"], against["hint"])
    staying = counted(sum(one["role"] == "voter" and one["id"] != found["id"] for one in members), "voter")
    return f"{found['ghost'] or found['name']}. Take it out of etcd for good? {staying} will be left."
