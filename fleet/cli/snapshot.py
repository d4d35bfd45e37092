"""`bramble snapshot`: the cluster's data, kept off its nodes."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from fleet.cli.groups import HelpfulGroup
from fleet.cli.names import cluster_file, file_option
from fleet.cli.nodes import reader_of, state_directory, store_place
from fleet.cli.questions import require_yes
from fleet.cli.render import out
from fleet.errors import FleetError
from fleet.etcd.errors import BadSnapshotError
from fleet.k3s.material import K3sMaterial
from fleet.printable import counted
from fleet.snapshots.desk import in_use, place_of
from fleet.snapshots.files import SnapshotFiles
from fleet.snapshots.imports import Ours, import_snapshot
from fleet.snapshots.manifest import Damaged, SnapshotInfo, verify
from fleet.snapshots.places import KeptElsewhere, elsewhere
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec
from fleet.store.database import NoRecordError, Store, StoreError

POLL_S: Final = 0.3
SILENT_S: Final = 2 * 3600.0
"""A server says once an hour what it keeps."""
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")


def files_of(file: Path) -> SnapshotFiles:
    """The snapshots of the cluster that `file` declares, on this machine."""
    return _files_of(load_cluster(file))


def _files_of(spec: ClusterSpec) -> SnapshotFiles:
    return SnapshotFiles(state_directory(spec.name) / "snapshots")


def _kept_elsewhere(spec: ClusterSpec, files: SnapshotFiles) -> tuple[KeptElsewhere, ...]:
    """What other control servers keep; says so where the record can not be asked."""
    place = store_place(spec)
    if isinstance(place, Path):
        return ()  # one server has the record to itself
    try:
        store = Store.open_readonly(place)
        try:
            with store.read() as reader:
                return elsewhere(reader, place_of(files.directory))
        finally:
            store.close()
    except NoRecordError:
        return ()
    except StoreError as error:
        click.echo(f"What other control servers keep is not known: {error.message}", err=True)
        return ()


@click.group(cls=HelpfulGroup)
def snapshot() -> None:
    """Snapshots of etcd: the whole state of the Kubernetes cluster, kept on this machine.

    They are taken on a schedule ('policy.snapshots'), before a server is re-imaged, and by 'take'. Each has
    the token and the CAs with it that a restore needs, so it is as secret as the cluster. 'bramble recover'
    brings a cluster back from one; docs/recovery.md is the runbook.
    """


@snapshot.command("list")
@cluster_file
@_json
def list_snapshots(file: Path, as_json: bool) -> None:
    """List the snapshots that are kept, the newest first. Needs no running server.

    Several control servers on one PostgreSQL keep their snapshots on their own machines: those of the others
    are listed with the machine's name.

    \b
    bramble snapshot list
    bramble snapshot list attic.yaml --json | jq -r '.snapshots[0].id'
    """
    spec = load_cluster(file)
    files = _files_of(spec)
    found, others = files.everything(), _kept_elsewhere(spec, files)
    if as_json:
        sound = [asdict(one) for one in found if isinstance(one, SnapshotInfo)]
        damaged = [asdict(one) for one in found if isinstance(one, Damaged)]
        document = {
            "directory": str(files.directory),
            "snapshots": sound,
            "damaged": damaged,
            "elsewhere": [asdict(one) for one in others],
            "strays": list(files.strays()),
        }
        click.echo(json.dumps(document, indent=2))
        return
    for name in files.strays():
        click.echo(
            f"{files.directory / name} is no snapshot as they are kept: 'bramble snapshot import'", err=True
        )
    if not found and not others:
        click.echo(f"No snapshot is kept in {files.directory} yet; 'bramble snapshot take' takes one.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("id", "age", "size", "servers", "taken for"):
        table.add_column(name, no_wrap=name != "taken for")
    for one in found:
        if isinstance(one, Damaged):
            table.add_row(one.id, "-", "-", "-", f"damaged: {one.reason}")
        else:
            age, size = _age(time.time() - one.taken_at), f"{one.size_bytes / (1 << 20):.1f} MiB"
            table.add_row(one.id, age, size, " ".join(one.servers), one.by)
    for kept in others:
        where = f"kept on {kept.host}, in {kept.directory}"
        if kept.seen_at is not None and (silent := time.time() - kept.seen_at) > SILENT_S:
            where += f"; not heard of for {_age(silent)}"
        table.add_row(kept.id, _age(time.time() - kept.taken_at), "-", "-", where)
    out().print(table)


@dataclass(frozen=True, slots=True)
class Imported:
    """A person's snapshot among those of the cluster.

    Attributes:
        is_guess: Its k3s release was not told: it is the newest that its file names.
        note: What to say of that; "" where nobody guessed.
    """

    info: SnapshotInfo
    is_guess: bool

    @property
    def note(self) -> str:
        if not self.is_guess:
            return ""
        return (
            f"That k3s {self.info.k3s_version} wrote it is a guess: no newer release is named in it. If it "
            "was another one, 'bramble snapshot import' it again with --k3s-version."
        )


def bring_in(file: Path, place: Path, release: str | None) -> Imported:
    """Copy a person's snapshot to those of the cluster that `file` declares.

    Raises:
        FleetError: It is none, or is another cluster's, or the disk refuses.
    """
    spec = load_cluster(file)
    state, files = state_directory(spec.name), _files_of(spec)
    ours = Ours(name=spec.name, material=K3sMaterial(state / "k3s"))
    before = {one.id for one in files.sound()}
    info = import_snapshot(files, place, ours, release=release)
    return Imported(info, release is None and place.is_file() and info.id not in before)


@snapshot.command("import")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--k3s-version",
    "release",
    metavar="VERSION",
    help="Of the k3s that wrote a file; guessed unless given: the newest that is named in it.",
)
@file_option
@_json
def import_(path: Path, release: str | None, file: Path, as_json: bool) -> None:
    """Bring a snapshot here, so that 'bramble recover' can start from it. Needs no server.

    PATH is the directory of a snapshot that a control server of this cluster kept, or a file that k3s itself
    wrote on a server or to S3, plain or zipped. It is read through and held against its digests. A file has
    to be of this cluster: what k3s keeps in etcd under the cluster's token is looked for in it. What is
    imported is deleted by 'bramble snapshot prune --imported' only.

    \b
    bramble snapshot import /mnt/nas/20261126T031500Z-0a1b2c
    bramble snapshot import /mnt/nas/etcd-snapshot-pi5-master-1-1764126000.zip
    bramble snapshot import /mnt/nas/on-demand-s1-1764126000 --k3s-version v1.33.5+k3s1
    """
    if release is not None and path.is_dir():
        raise click.UsageError(
            "--k3s-version is for a file of k3s' own: a directory says which k3s wrote it."
        )
    imported = bring_in(file, path, release)
    info = imported.info
    if as_json:
        click.echo(json.dumps({**asdict(info), "k3s_version_is_guess": imported.is_guess}, indent=2))
        return
    click.echo(
        f"snapshot {info.id} is kept ({info.size_bytes / (1 << 20):.1f} MiB, sha256 {info.sha256}, "
        f"k3s {info.k3s_version})"
    )
    if imported.note:
        click.echo(imported.note)


@snapshot.command()
@cluster_file
@_json
def take(file: Path, as_json: bool) -> None:
    """Have the running server take a snapshot now, and wait for it.

    \b
    bramble snapshot take
    bramble snapshot take --json | jq -r .snapshot
    """
    reader = reader_of(file)
    order = reader.ask("POST", "/v1/snapshots")
    with Progress(
        TextColumn("snapshot"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=as_json or not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task("snapshot", total=None)
        while order["state"] in ("waiting", "running"):
            time.sleep(POLL_S)
            order = reader.ask("GET", f"/v1/snapshots/orders/{order['number']}")
            progress.update(task, completed=order["done_bytes"], total=order["total_bytes"] or None)
    if order["state"] == "failed":
        raise FleetError(order["message"], order["hint"])
    if as_json:
        click.echo(json.dumps(order))
    else:
        click.echo(f"snapshot {order['snapshot']} is kept ({order['total_bytes'] / (1 << 20):.1f} MiB)")


@snapshot.command("verify")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="Every one, not the newest only.")
@file_option
@_json
def verify_snapshots(ids: tuple[str, ...], everything: bool, file: Path, as_json: bool) -> None:
    """Read snapshots and hold every byte against its digests: those named, or the newest. Needs no server.

    Exits with 1 where one is damaged.

    \b
    bramble snapshot verify
    bramble snapshot verify --all
    """
    files = files_of(file)
    known = files.everything()
    wanted = ids or tuple(one.id for one in (known if everything else known[:1]))
    if not wanted:
        raise FleetError(f"no snapshot is kept in {files.directory}", "'bramble snapshot take' takes one.")
    results: list[dict[str, Any]] = []
    for one in wanted:
        try:
            info = verify(files.place(one))
            results.append({"id": one, "ok": True, "sha256": info.sha256, "message": ""})
        except BadSnapshotError as error:
            results.append({"id": one, "ok": False, "sha256": "", "message": error.message})
        if not as_json:
            click.echo(f"{one}: {results[-1]['message'] or 'whole'}")
    if as_json:
        click.echo(json.dumps({"snapshots": results}, indent=2))
    if not all(result["ok"] for result in results):
        sys.exit(1)


@snapshot.command()
@click.option(
    "--keep", type=click.IntRange(1), metavar="N", help="How many; 'policy.snapshots.keep' unless given."
)
@click.option("--imported", is_flag=True, help="Also all that people brought here.")
@click.option("--dry-run", is_flag=True, help="Only say which.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@cluster_file
@_json
def prune(keep: int | None, imported: bool, dry_run: bool, yes: bool, file: Path, as_json: bool) -> None:
    """Delete all but the newest snapshots. One that a re-image or a recovery under way needs is kept.

    \b
    bramble snapshot prune --dry-run
    bramble snapshot prune --keep 3
    """
    spec = load_cluster(file)
    files = files_of(file)
    place = store_place(spec)

    def wanted() -> frozenset[str]:
        if isinstance(place, Path) and not place.exists():
            return frozenset()
        store = Store.open_readonly(place)
        try:
            with store.read() as reader:
                return in_use(reader)
        finally:
            store.close()

    number = keep or spec.policy.snapshots.keep
    gone: tuple[str, ...] = ()
    if dry_run or not yes:
        needed = wanted()
        gone = files.surplus(number, needed) + (files.brought_in(needed) if imported else ())
    if gone and not dry_run and not yes:
        ones = f"{counted(len(gone), 'snapshot')} ({', '.join(gone)})"
        left = f"all but the newest {number}" + (", and all that people brought here" if imported else "")
        require_yes(f"Delete {ones}: {left}? Nobody can restore them then.", yes=False)
    if not dry_run:
        gone = files.prune(number, wanted, imported=imported)
    if as_json:
        click.echo(json.dumps({"deleted": list(gone), "dry_run": dry_run}))
        return
    verb = "would be deleted" if dry_run else "deleted"
    for one in gone:
        click.echo(f"{one} {verb}")
    if not gone:
        click.echo("nothing to delete")


@snapshot.command()
@click.argument("host")
@click.option("--directory", metavar="DIR", help="One of its directories; all of them unless given.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@file_option
@_json
def forget(host: str, directory: str | None, yes: bool, file: Path, as_json: bool) -> None:
    """Forget the snapshots that machine HOST is said to keep: it is gone, or has another name now.

    Where several control servers share a PostgreSQL, each tells what it keeps. One that is not heard of for a
    month is forgotten by itself. No file is touched.

    \b
    bramble snapshot forget rack-1
    """
    reader = reader_of(file)
    if not yes:
        kept = [
            one
            for one in reader.ask("GET", "/v1/snapshots")["elsewhere"]
            if one["host"] == host and directory in (None, one["directory"])
        ]
        if kept:  # else the server says which machines there are
            require_yes(_forgetting(host, kept, time.time()), yes=False)
    answer = reader.ask("POST", "/v1/snapshots/forget", {"host": host, "directory": directory})
    click.echo(json.dumps(answer) if as_json else answer["message"])


def _forgetting(host: str, kept: list[dict[str, Any]], now: float) -> str:
    """What forgetting these comes to, as a question."""
    where = ", ".join(sorted({one["directory"] for one in kept}))
    newest = _age(now - max(one["taken_at"] for one in kept))
    seen = max((one["seen_at"] or 0.0 for one in kept), default=0.0)
    heard = f", and was heard of {_age(now - seen)} ago" if seen else ""
    return (
        f"{host} is said to keep {counted(len(kept), 'snapshot')} in {where}, the newest {newest} old{heard}."
        " Forget them? No file is touched."
    )


def _age(seconds: float) -> str:
    if seconds < 5400:
        return f"{max(0, round(seconds / 60))} min"
    return f"{seconds / 3600:.0f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.0f} d"
