"""`bramble token` and `bramble api`: the control API for people and programs elsewhere."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from fleet.cli.groups import HelpfulGroup
from fleet.cli.names import cluster_file
from fleet.cli.nodes import fleet_reader
from fleet.cli.questions import require_yes
from fleet.cli.render import out
from fleet.spec import load_cluster
from fleet.spec.values import ValueFault, parse_duration

_FILE = cluster_file


@click.group(cls=HelpfulGroup)
def token() -> None:
    """Tokens of the control API: for dashboards and programs on other machines.

    On this machine the command line needs none, it uses the server's socket.
    """


def _duration(_context: click.Context, _parameter: click.Parameter, value: str) -> int:
    try:
        return parse_duration(value)
    except ValueFault as error:
        raise click.BadParameter(str(error)) from error


@token.command()
@click.argument("name")
@_FILE
@click.option(
    "--role",
    type=click.Choice(["viewer", "admin"]),
    default="viewer",
    show_default=True,
    help="viewer sees everything; admin may do what the command line may.",
)
@click.option(
    "--ttl",
    "ttl_s",
    default="90d",
    show_default=True,
    callback=_duration,
    metavar="TIME",
    help="How long it is in force: 12h, 30d.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def create(name: str, file: Path, role: str, ttl_s: int, as_json: bool) -> None:
    """Make a token called NAME and print it: this once, the server keeps only its hash.

    \b
    bramble token create grafana
    bramble token create ci --role admin --ttl 12h
    curl --cacert control-ca.crt -H "Authorization: Bearer $TOKEN" https://control:7443/v1/nodes
    """
    made = fleet_reader(load_cluster(file)).create_token(name, role, float(ttl_s))
    if as_json:
        click.echo(json.dumps(made, indent=2))
        return
    click.echo(made["token"])
    ends = datetime.fromtimestamp(made["view"]["expires"], UTC).isoformat(timespec="minutes")
    click.echo(f"{role} {name}, in force until {ends}. It is not shown again.", err=True)


@token.command(name="list")
@_FILE
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of text.")
def list_tokens(file: Path, as_json: bool) -> None:
    """List the tokens: in force, and ended within 90 days.

    \b
    bramble token list
    """
    found = fleet_reader(load_cluster(file)).tokens()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    table = Table("name", "id", "role", "made", "state", box=None)
    for one in found:
        table.add_row(one["name"], one["id"], one["role"], _day(one["created"]), _state(one, time.time()))
    out().print(table)


@token.command()
@click.argument("name")
@_FILE
@click.option("--yes", is_flag=True, help="Do not ask.")
def revoke(name: str, file: Path, yes: bool) -> None:
    """End the token called NAME (or with that id), at once.

    \b
    bramble token revoke grafana
    """
    reader = fleet_reader(load_cluster(file))
    if not yes:
        # Where none is meant there is nothing to ask: the server says which there are.
        for one in reader.tokens():
            if name in (one["name"], one["id"]) and _is_in_force(one, time.time()):
                require_yes(_revocation(one), yes=False)
    click.echo(reader.revoke_token(name))


def _revocation(one: dict[str, Any]) -> str:
    """What revoking this token comes to, as a question."""
    return (
        f"{one['name']} ({one['id']}) is the {one['role']} token that was made on {_day(one['created'])}. "
        "Revoke it? Whoever shows it is refused from then on, and is logged out of the dashboard."
    )


@click.group(cls=HelpfulGroup)
def api() -> None:
    """The control API: what a program can ask of a server."""


@api.command()
def openapi() -> None:
    """Print the API's OpenAPI 3.1 document, as the server has it at /v1/openapi.json.

    \b
    bramble api openapi > bramble.openapi.json
    """
    from fleet.api.table import openapi as document  # the web framework, for this command only

    click.echo(json.dumps(document(), indent=2, sort_keys=True))


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def _is_in_force(one: dict[str, Any], now: float) -> bool:
    return one["revoked"] is None and (one["expires"] is None or one["expires"] > now)


def _state(one: dict[str, Any], now: float) -> str:
    if one["revoked"] is not None:
        return f"revoked {_day(one['revoked'])}"
    if not _is_in_force(one, now):
        return f"expired {_day(one['expires'])}"
    return f"until {_day(one['expires'])}" if one["expires"] is not None else "in force"
