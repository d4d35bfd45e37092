"""`bramble backup` and `bramble restore`."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from fleet.backup import Manifest, make_backup, restore_backup, verify_backup
from fleet.cli.names import NODE, cluster_argument
from fleet.cli.nodes import fleet_reader, state_directory, store_place
from fleet.cli.places import STORE_VARIABLE
from fleet.cli.progress import ProgressLine
from fleet.errors import FleetError, InputError
from fleet.printable import counted
from fleet.secret import Secret
from fleet.spec import load_cluster

_FILE = click.Path(path_type=Path, dir_okay=False)
_cluster = cluster_argument("cluster")
_passphrase_file = click.option(
    "--passphrase-file", type=_FILE, help="Its first line is the passphrase of the backup."
)
_store = click.option(
    "--store", "store_url", metavar="URL", envvar=STORE_VARIABLE, help="The record's PostgreSQL database."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")


@click.command()
@click.argument("file", type=_FILE)
@_cluster
@click.option("--encrypt", is_flag=True, help="Ask for a passphrase on the terminal.")
@_passphrase_file
@click.option("--force", is_flag=True, help="Replace FILE where it exists.")
@_store
@_json
def backup(
    file: Path,
    cluster: Path,
    encrypt: bool,
    passphrase_file: Path | None,
    force: bool,
    store_url: str | None,
    as_json: bool,
) -> None:
    """Write everything of a cluster's control server into FILE: its record, its CAs, and k3s' keys.

    The server may run meanwhile. FILE is as secret as the cluster: it is readable by you alone, and with a
    passphrase it is encrypted ('age -d' opens it too).

    \b
    bramble backup attic.bramble
    bramble backup attic.bramble --encrypt
    bramble backup /nas/attic-$(date +%F).bramble --passphrase-file ~/.backup-passphrase
    """
    spec = load_cluster(cluster)
    passphrase = _read_passphrase(passphrase_file)
    if encrypt and passphrase is None:
        passphrase = _ask(confirm=True)
    with ProgressLine(show=not as_json and sys.stderr.isatty()) as line:
        done = make_backup(
            spec.name,
            state_directory(spec.name),
            store_place(spec, store_url),
            file,
            passphrase=passphrase,
            force=force,
            progress=line.update,
        )
    _print(file, done, file.stat().st_size, as_json=as_json)
    if passphrase is None and not as_json:
        click.echo("It is not encrypted and holds the cluster's keys: keep it where only you can read.")


@click.command()
@click.argument("file", type=_FILE)
@_cluster
@_passphrase_file
@_store
@click.option("--verify", is_flag=True, help="Read and check FILE, say what it holds, and restore nothing.")
@click.option(
    "--revoke",
    "revoked",
    type=NODE,
    metavar="NODE",
    multiple=True,
    help="Revoke NODE in what is restored: it was revoked after FILE was made. May be repeated.",
)
@_json
def restore(
    file: Path,
    cluster: Path,
    passphrase_file: Path | None,
    store_url: str | None,
    verify: bool,
    revoked: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make a control server's state from a backup, on a machine that has none of this cluster.

    The record goes to where cluster.yaml (or --store) says: a backup of a server with SQLite restores into
    PostgreSQL, and the other way round. Until a node is heard of again, nothing is done to it that cannot be
    taken back.

    FILE does not know what people took back after it was made: name nodes that were revoked since, and say
    the rest again when the server runs.

    \b
    bramble restore attic.bramble --verify
    bramble restore attic.bramble
    bramble restore attic.bramble --revoke pi4-3 --revoke pi4-7
    bramble restore attic.bramble --store postgresql://bramble@db.attic.internal/bramble
    """
    spec = load_cluster(cluster)
    if not file.exists():
        raise InputError(f"{file} does not exist", "Name a file that 'bramble backup FILE' wrote.")
    passphrase = _read_passphrase(passphrase_file)
    if passphrase is None and _is_age(file) and sys.stdin.isatty():
        passphrase = _ask(confirm=False)
    if verify and revoked:
        raise click.UsageError("--verify changes nothing, so there is nothing to --revoke.")
    line = ProgressLine(show=not as_json and sys.stderr.isatty())
    if verify:
        with line:
            found = verify_backup(file, passphrase, lambda share: line.update("reading", share))
        _print(file, found, file.stat().st_size, as_json=as_json)
        return
    if fleet_reader(spec).is_served():
        raise FleetError(f"a server of {spec.name} is running", "Stop it first.")
    state = state_directory(spec.name)
    with line:
        done = restore_backup(
            spec.name,
            file,
            state,
            store_place(spec, store_url),
            passphrase=passphrase,
            revoked=revoked,
            progress=line.update,
        )
    _print(file, done, file.stat().st_size, as_json=as_json)
    if not as_json:
        click.echo(_what_is_left(done, state, revoked))


def _what_is_left(done: Manifest, state: Path, revoked: tuple[str, ...]) -> str:
    """What people have to do again, before 'bramble serve' and after it."""
    made = _time_text(done)
    named = f"; revoked: {', '.join(revoked)}" if revoked else ""
    return (
        f"restored{named}. What was taken back after {made} is in force again, so before 'bramble serve':\n"
        "  nodes revoked since, and nodes of which a key was rejected since:\n"
        f"    move {state} away, and restore again with --revoke NODE for each\n"
        "and as soon as it runs:\n"
        "  devices forgotten since: 'bramble devices forget NODE'\n"
        "  tokens of the API: all have ended, 'bramble token create NAME' makes new ones\n"
        "Nodes are trusted again as they are heard of."
    )


def _time_text(manifest: Manifest) -> str:
    return datetime.fromtimestamp(manifest.created, UTC).isoformat(timespec="seconds")


def _is_age(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return stream.read(4) == b"age-"
    except OSError:
        return False


def _read_passphrase(path: Path | None) -> Secret | None:
    if path is None:
        return None
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read: {error}", "Put the passphrase on its first line."
        ) from error
    if not lines or not lines[0]:
        raise InputError(f"{path}: its first line is empty", "Put the passphrase there.")
    return Secret(lines[0])


def _ask(*, confirm: bool) -> Secret:
    if not sys.stdin.isatty():
        raise click.UsageError("There is no terminal to ask on. Use --passphrase-file.")
    return Secret(click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True))


def _print(file: Path, manifest: Manifest, size: int, *, as_json: bool) -> None:
    made = _time_text(manifest)
    if as_json:
        values: dict[str, Any] = {
            "file": str(file),
            "cluster": manifest.cluster,
            "created": made,
            "nodes": manifest.nodes,
            "revision": manifest.revision,
            "epoch": manifest.epoch,
            "encrypted": manifest.is_encrypted,
            "bytes": size,
            "members": sorted(manifest.members),
        }
        click.echo(json.dumps(values, indent=2))
        return
    locked = "encrypted" if manifest.is_encrypted else "not encrypted"
    nodes, files = counted(manifest.nodes, "node"), counted(len(manifest.members), "file")
    click.echo(
        f"{file}: cluster {manifest.cluster}, {nodes}, {files}, made {made}, {size / 1024:.0f} KiB, {locked}"
    )
