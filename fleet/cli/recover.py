"""`bramble recover`: a lost cluster, back from a snapshot."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any, Final

import click

from fleet.admin_client import FleetReader
from fleet.cli.names import NODE, cluster_file
from fleet.cli.nodes import reader_of
from fleet.cli.questions import require_yes
from fleet.cli.snapshot import bring_in
from fleet.errors import FleetError
from fleet.etcd.errors import BadSnapshotError
from fleet.snapshots.manifest import ID

POLL_S: Final = 2.0
UNDER_WAY: Final = ("founding", "joining")
"""Phases of a recovery that has not come to its end."""


@click.command()
@click.option("--snapshot", metavar="ID|PATH", help="From 'bramble snapshot list', or a copy of one.")
@click.option("--founder", type=NODE, help="The server to begin with; chosen unless given.")
@click.option("--with-agents", is_flag=True, help="Install all agents anew too, not the servers only.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done, and what stands against it.")
@click.option("--status", "show", is_flag=True, help="How far the recovery is.")
@click.option("--cancel", is_flag=True, help="Call off the recovery that is under way.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--wait", is_flag=True, help="Follow it until all servers are back; also with --status.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@cluster_file
def recover(
    snapshot: str | None,
    founder: str | None,
    with_agents: bool,
    dry_run: bool,
    show: bool,
    cancel: bool,
    yes: bool,
    wait: bool,
    as_json: bool,
    file: Path,
) -> None:
    """Bring a cluster back that has lost its quorum or all its servers, from a snapshot, onto blank boards.

    One server is installed and restores the snapshot, the others join it. What the cluster was told since
    the snapshot is lost, so first read docs/recovery.md: where one server lives, there is a better way.
    Servers of the old cluster have to be off, and stay off until they are installed.

    With --dry-run it exits with 1 where something stands against it. --cancel makes everything what it was,
    as long as the first server was not told to restore; nodes whose disks may be written by then are
    installed as blank ones.

    \b
    bramble snapshot list
    bramble recover --snapshot 20261126T031500Z-0a1b2c --dry-run
    bramble recover --snapshot 20261126T031500Z-0a1b2c --wait
    bramble recover --snapshot /mnt/nas/20261126T031500Z-0a1b2c --founder pi5-master-2
    bramble recover --status
    bramble recover --cancel
    """
    reader = reader_of(file)
    if cancel:
        _cancel(reader, with_others=snapshot is not None or dry_run or show, yes=yes, as_json=as_json)
        return
    if show:
        found = reader.ask("GET", "/v1/recovery")["recovery"]
        if found is None and not as_json:
            click.echo("No recovery was ever ordered.")
            return
        _tell(reader, found, as_json=as_json, wait=wait and found is not None)
        return
    if snapshot is None:
        raise click.UsageError("Say which snapshot: --snapshot ID. 'bramble snapshot list' shows them.")
    order = {"snapshot": _bring_in(file, snapshot), "founder": founder, "with_agents": with_agents}
    plan = reader.ask("POST", "/v1/recovery/plan", order)
    problems = plan["problems"]
    if dry_run and as_json:
        click.echo(json.dumps(plan, indent=2))
        sys.exit(1 if problems else 0)
    if not as_json:
        _print_plan(plan)
    if dry_run:
        sys.exit(1 if problems else 0)
    if problems:
        raise FleetError("; ".join(one["text"] for one in problems), problems[0]["hint"])
    require_yes("Go back to this snapshot?", yes=yes, otherwise="Look with --dry-run, and answer with --yes.")
    _tell(reader, reader.ask("POST", "/v1/recovery", order), as_json=as_json, wait=wait)


def _cancel(reader: FleetReader, *, with_others: bool, yes: bool, as_json: bool) -> None:
    if with_others:
        raise click.UsageError("--cancel goes without --snapshot, --dry-run and --status.")
    if not yes:
        found = reader.ask("GET", "/v1/recovery")["recovery"]
        if found is not None and found["phase"] in UNDER_WAY:  # else the server says that none is
            require_yes(f"{_words(found)}. Call the recovery off?", yes=False)
    answer = reader.ask("POST", "/v1/recovery/cancel")
    click.echo(json.dumps(answer) if as_json else answer["message"])


def _bring_in(file: Path, named: str) -> str:
    """The id of the snapshot; one that is given as a directory, or as a file of k3s, is copied to the others
    first.

    Raises:
        BadSnapshotError: It is no sound snapshot of this cluster.
    """
    if re.fullmatch(ID, named):
        return named
    place = Path(named)
    if not place.exists():
        raise BadSnapshotError(
            f"{named} is no id of a snapshot, and no directory or file",
            "'bramble snapshot list' shows the ids.",
        )
    imported = bring_in(file, place, None)
    if imported.note:
        click.echo(imported.note, err=True)
    return imported.info.id


def _print_plan(plan: dict[str, Any]) -> None:
    taken = plan["snapshot"]
    hours = (time.time() - taken["taken_at"]) / 3600
    click.echo(f"snapshot {taken['id']}, {hours:.1f} h old, {taken['size_bytes'] / (1 << 20):.1f} MiB")
    click.echo(f"{plan['founder'] or '?'} restores it and is the cluster; then join, blank:")
    others = [name for name in plan["servers"] if name != plan["founder"]]
    click.echo(f"  servers {' '.join(others) or 'none'}")
    if plan["agents"]:
        click.echo(f"  agents  {' '.join(plan['agents'])}")
    for one in plan["warnings"]:
        click.echo(f"note: {one['text']}\n  {one['hint']}")
    for one in plan["problems"]:
        click.secho("against it: ", fg="red", nl=False)
        click.echo(f"{one['text']}\n  {one['hint']}")


def _tell(reader: FleetReader, view: dict[str, Any], *, as_json: bool, wait: bool) -> None:
    """How far the recovery is; with `wait` again whenever that changes, until it is done."""
    if not as_json:
        _print_status(view)
    while wait and view["phase"] in UNDER_WAY:
        time.sleep(POLL_S)
        before, view = view, reader.look("/v1/recovery")["recovery"]
        if not as_json and (view["phase"], view["waits_for"]) != (before["phase"], before["waits_for"]):
            _print_status(view)
    if as_json:
        click.echo(json.dumps(view, indent=2))
    if wait and view["phase"] != "done":
        raise FleetError("the recovery did not come to its end: it was called off")


def _print_status(view: dict[str, Any]) -> None:
    click.echo(_words(view))
    for one in view["waits_for"]:
        click.echo(f"  {one}")


def _words(view: dict[str, Any]) -> str:
    """Where a recovery stands."""
    words = {
        "founding": f"{view['founder']} is to restore snapshot {view['snapshot']}",
        "joining": f"{view['founder']} restored snapshot {view['snapshot']}, the other servers join it",
        "done": f"the cluster is back from snapshot {view['snapshot']}",
        "cancelled": f"the recovery from snapshot {view['snapshot']} was called off",
    }
    return words[view["phase"]]
