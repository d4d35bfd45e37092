"""`bramble nodes` and `bramble show`: what a person asks while boards come up."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.live import Live

from fleet.admin_client import FleetReader
from fleet.cli.looking import view_of
from fleet.cli.names import NODE
from fleet.cli.names import cluster_file as cluster_file
from fleet.cli.places import state_directory as state_directory
from fleet.cli.places import state_places
from fleet.cli.places import store_place as store_place
from fleet.cli.render import event_text, first_sign, out, render_fleet, render_timeline
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec

WATCH_INTERVAL_S: Final = 1.0


def fleet_reader(spec: ClusterSpec) -> FleetReader:
    """Whoever answers questions about a cluster: its running server, or the record that one wrote."""
    return FleetReader(state_directory(spec.name), store_place(spec), state_places(spec.name))


def reader_of(file: Path) -> FleetReader:
    """Where to ask about the cluster of `file`."""
    return fleet_reader(load_cluster(file))


@click.command()
@cluster_file
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--watch", is_flag=True, help="Keep the table up to date until interrupted.")
def nodes(file: Path, as_json: bool, watch: bool) -> None:
    """List the nodes of a cluster.yaml with their state, and the boards that are held.

    Reads what the last server wrote when none is running. An error in cluster.yaml is told on stderr, and
    what the server knows is shown all the same.

    \b
    bramble nodes
    bramble nodes --watch
    bramble nodes attic.yaml --json | jq -r '.nodes[] | select(.state != "ready") | .name'
    """
    looking = view_of(file)
    looking.warn()
    reader = looking.reader
    if as_json:
        for view in _repeat(reader.nodes, forever=watch):
            click.echo(json.dumps(view, indent=None if watch else 2))
        return
    console = out()
    if not watch:
        console.print(render_fleet(reader.nodes(), time.time()))
        return
    with Live(console=console, auto_refresh=False) as live:
        for view in _repeat(reader.nodes, forever=True):
            live.update(render_fleet(view, time.time()), refresh=True)


@click.command()
@click.argument("node", type=NODE)
@cluster_file
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--watch", is_flag=True, help="Go on with new entries until interrupted.")
def show(node: str, file: Path, as_json: bool, watch: bool) -> None:
    """Show one node, or one board: what is known of it, and its timeline.

    NODE is a name of cluster.yaml, or the serial (its last 8 digits will do) or the MAC address of any board
    that was seen, whether it is in cluster.yaml or not.

    \b
    bramble show pi5-master-1
    bramble show d03114aa
    bramble show 2c:cf:67:12:34:56 --watch
    """
    looking = view_of(file)
    looking.warn()
    reader = looking.reader
    timeline = reader.timeline(node)
    if as_json:
        click.echo(json.dumps(timeline, indent=2))
        return
    console = out()
    console.print(render_timeline(timeline, time.time()), soft_wrap=True)
    if watch:
        _follow(console, reader, node, timeline["events"])


def _follow(console: Console, reader: FleetReader, node: str, seen: list[Any]) -> None:
    newest = max((event["id"] for event in seen), default=0)
    first = first_sign(seen) if seen else time.time()
    while True:
        time.sleep(WATCH_INTERVAL_S)
        for event in reader.timeline(node, newest)["events"]:
            console.print(event_text(event, first), soft_wrap=True)
            newest = max(newest, event["id"])


def _repeat(ask: Callable[[], Any], *, forever: bool) -> Iterator[Any]:
    """One answer, or one per interval until interrupted."""
    yield ask()
    while forever:
        time.sleep(WATCH_INTERVAL_S)
        yield ask()
