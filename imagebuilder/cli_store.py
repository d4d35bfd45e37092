"""The commands ``bramble gc`` and ``bramble store …``: they parse, call one function, and print."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Final

import click

from fleet.cli.groups import HelpfulGroup
from fleet.cli.names import default_file
from imagebuilder.cli import BUDGET_VARIABLE, ProgressLine, agent_package, apt_access, store
from imagebuilder.errors import ImageBuilderError
from imagebuilder.sizes import parse_size
from imagebuilder.store import Store

_CLUSTER = click.Path(exists=True, dir_okay=False, path_type=Path)
NOTES: Final = frozenset({"base-origins", "digests"})
"""Kinds of entries of a few hundred bytes, of which there can be hundreds."""
_AGE: Final = re.compile(r"(\d+)([dhw])")


def _parse_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Bytes from 500M, 20G or 1.5Ti."""
    if value is None:
        return None
    try:
        return parse_size(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc), ctx, param) from exc


def _parse_age(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """Seconds from 12h, 30d or 4w."""
    match = _AGE.fullmatch(value.strip())
    if match is None:
        raise click.BadParameter(f"{value!r} is not a time; write 12h, 30d or 4w", ctx, param)
    return int(match[1]) * {"h": 3600.0, "d": 86400.0, "w": 604800.0}[match[2]]


@click.command()
@click.option(
    "-c",
    "--cluster",
    "clusters",
    type=_CLUSTER,
    multiple=True,
    metavar="FILE",
    help="Keep what this cluster needs. May be repeated. Default: ./cluster.yaml, else the service's.",
)
@click.option("--no-cluster", is_flag=True, help="Do not look for a cluster.yaml.")
@click.option(
    "--unused",
    callback=_parse_age,
    metavar="TIME",
    default="30d",
    show_default=True,
    help="Remove what was not used so long.",
)
@click.option(
    "--budget",
    callback=_parse_size,
    metavar="SIZE",
    envvar=BUDGET_VARIABLE,
    help="Remove the least recently used until the cache takes no more than this "
    f"(500M, 20G); ${BUDGET_VARIABLE}.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def gc(
    clusters: tuple[Path, ...],
    no_cluster: bool,
    unused: float,
    budget: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove from the cache what nobody needs: leftovers of killed builds, old bases, images and downloads.

    What a running process uses, and what the cluster needs to be built, stays. Over the budget, images and
    other things that can be made again here go before bases and releases, which have to be fetched.
    With $BRAMBLE_CACHE_BUDGET set, every build ends with that by itself.

    \b
    bramble gc --dry-run
    bramble gc --budget 20G
    bramble gc --unused 7d -c attic.yaml -c lab.yaml
    """
    from imagebuilder.store_gc import collect

    meant = default_file()
    files = clusters or ((meant,) if meant.is_file() and not no_cluster else ())
    keeper = Store(store().root)
    for file in files:
        _hold(file, keeper)
    report = collect(
        Store(keeper.root),
        needed=keeper.held,
        budget_bytes=budget,
        unused_s=unused,
        now=time.time(),
        dry_run=dry_run,
    )
    if as_json:
        click.echo(
            json.dumps(
                {
                    "dry_run": dry_run,
                    "removed": [
                        {
                            "kind": removal.item.kind,
                            "id": removal.item.id,
                            "size_bytes": removal.item.size_bytes,
                            "reason": removal.reason,
                        }
                        for removal in report.removed
                    ],
                    "busy": [f"{removal.item.kind}/{removal.item.id}" for removal in report.kept_busy],
                    "needed": sorted(f"{kind}/{entry}" for kind, entry in keeper.held),
                    "freed_bytes": report.freed_bytes,
                    "size_bytes": report.size_bytes,
                    "over_budget": report.is_over_budget,
                }
            )
        )
        return
    for removal in report.removed:
        item = removal.item
        click.echo(f"{_mb(item.size_bytes):>9}  {item.kind}/{item.id}: {removal.reason}")
    for removal in report.kept_busy:
        click.echo(f"{'in use':>9}  {removal.item.kind}/{removal.item.id}: {removal.reason}")
    verb = "would be" if dry_run else "are"
    click.echo(f"{_mb(report.freed_bytes)} {verb} free again, the cache takes {_mb(report.size_bytes)}")
    if report.is_over_budget:
        click.echo("The rest is in use or needed by the cluster, and takes more than the budget.", err=True)


def _hold(file: Path, keeper: Store) -> None:
    """Have ``keeper`` find everything that a cluster is built from: what was found is in use."""
    from fleet.spec import load_cluster
    from imagebuilder.bases import find_declared
    from imagebuilder.build import find_image

    spec = load_cluster(file)
    try:
        base = find_declared(spec.image.base, keeper)
        find_image(spec, store=keeper, agent_package=agent_package(), apt=apt_access())
    except ImageBuilderError as exc:
        raise ImageBuilderError(
            f"{file}: what this cluster needs cannot be told: {exc.message}",
            f"{exc.hint}\nTo clean up all the same, without regard to it: bramble gc --no-cluster",
        ) from exc
    if base is None:
        return
    for kind in ("installer-runtimes", "base-chunks"):
        for entry in keeper.entries(kind):
            if entry.name.startswith(f"{base.content_id}-"):
                keeper.find(kind, entry.name)


@click.group(name="store", cls=HelpfulGroup)
def store_commands() -> None:
    """The cache of bases, images and downloads."""


@store_commands.command(name="list")
@click.option("--all", "everything", is_flag=True, help="Also each note of a digest or an origin.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of all of it instead of text.")
def store_list(everything: bool, as_json: bool) -> None:
    """List what is in the cache, with what it takes on the disk and when it was last used.

    \b
    bramble store list
    bramble store list --all
    """
    from imagebuilder.store_gc import survey

    items = survey(store())
    if as_json:
        click.echo(
            json.dumps(
                [
                    {
                        "place": item.place.value,
                        "kind": item.kind,
                        "id": item.id,
                        "path": os.fspath(item.path),
                        "size_bytes": item.size_bytes,
                        "last_used": item.last_used,
                        "faulty": item.faulty or None,
                    }
                    for item in items
                ]
            )
        )
        return
    if not items:
        click.echo(f"nothing is in {store().root} yet")
        return
    now = time.time()
    for item in items:
        if everything or item.kind not in NOTES:
            note = f"  {item.faulty}" if item.faulty else ""
            used = _ago(now - item.last_used)
            click.echo(f"{_mb(item.size_bytes):>9}  {used:>5}  {item.kind}/{item.id}{note}")
    notes = [item for item in items if item.kind in NOTES]
    if notes and not everything:
        size = _mb(sum(item.size_bytes for item in notes))
        click.echo(f"{size:>9}         {len(notes)} notes of digests and origins ('--all' lists them)")
    click.echo(f"{_mb(sum(item.size_bytes for item in items)):>9}  in {store().root}")


@store_commands.command(name="verify")
@click.option(
    "--remove", is_flag=True, help="Remove what is damaged; it is made or fetched again when needed."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of text.")
def store_verify(remove: bool, as_json: bool) -> None:
    """Read everything in the cache again and compare it with the digests that were recorded.

    Exits with 1 where something is damaged and still there.

    \b
    bramble store verify
    bramble store verify --remove
    """
    from imagebuilder.store_verify import verify_store

    root = store().root
    with ProgressLine(show=not as_json) as line:
        findings = verify_store(Store(root), line.update)
    damaged = [finding for finding in findings if finding.problems]
    removed = {finding.id for finding in damaged if remove and Store(root).evict(finding.kind, finding.id)}
    if as_json:
        click.echo(
            json.dumps(
                [
                    {
                        "kind": finding.kind,
                        "id": finding.id,
                        "path": os.fspath(finding.path),
                        "problems": list(finding.problems),
                        "unchecked": finding.unchecked or None,
                        "removed": finding.id in removed,
                    }
                    for finding in findings
                ]
            )
        )
    else:
        for finding in findings:
            state = "damaged" if finding.problems else "unchecked" if finding.unchecked else "ok"
            click.echo(f"{state:>9}  {finding.kind}/{finding.id} {finding.unchecked}".rstrip())
            for problem in finding.problems:
                click.echo(f"{'':9}  {problem}")
        if damaged and not remove:
            click.echo("Remove what is damaged with: bramble store verify --remove", err=True)
        for finding in damaged:
            if remove:
                state = "removed" if finding.id in removed else "in use, not removed"
                click.echo(f"{state}: {finding.kind}/{finding.id}")
    if len(removed) < len(damaged):
        sys.exit(1)


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB"


def _ago(seconds: float) -> str:
    return f"{seconds / 86400:.0f} d" if seconds >= 172800 else f"{max(0.0, seconds) / 3600:.0f} h"
