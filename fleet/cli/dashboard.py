"""`bramble dashboard`: a link that opens the dashboard once."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path

import click

from fleet.cli.nodes import cluster_file, reader_of
from fleet.errors import FleetError
from fleet.trust.tokens import TokenRole


@click.command()
@cluster_file
@click.option("--viewer", is_flag=True, help="May look and not act, for a month: for a screen on the wall.")
@click.option("--open", "opens", is_flag=True, help="Open it in this machine's browser.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def dashboard(file: Path, viewer: bool, opens: bool, as_json: bool) -> None:
    """Print a link that opens the dashboard once, within ten minutes.

    Who may use this server's socket may have one. Elsewhere log in with a token of 'bramble token create'.

    \b
    bramble dashboard
    bramble dashboard --viewer
    """
    role = TokenRole.VIEWER if viewer else TokenRole.ADMIN
    link = reader_of(file).ask("POST", f"/v1/admin/dashboard/links?role={role.value}")
    if as_json:
        click.echo(json.dumps(link))
    elif opens:
        if not webbrowser.open(link["url"]):
            raise FleetError("this machine has no browser to open", "Leave out --open, and copy the link.")
        click.echo("opened in the browser")
    else:
        click.echo(link["url"])
