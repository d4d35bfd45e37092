"""`bramble flash`."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from fleet.cli.names import NodeName, file_option
from fleet.cli.questions import is_terminal, require_yes
from fleet.cli.render import out
from imagebuilder.flash.batch import Result, flash_all
from imagebuilder.flash.devices import Inventory, refusals
from imagebuilder.flash.media import require_media
from imagebuilder.flash.writer import Phase


class Target(NodeName):
    """A node, and after each node the device for it; with --image devices only."""

    name = "target"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Names of nodes in their places, in the others the disks that may be written."""
        typed = ctx.params.get("targets") or ()
        if ctx.params.get("raw") is None and len(typed) % 2 == 0:
            return super().shell_complete(ctx, param, incomplete)
        disks = [disk for disk in Inventory.of_this_machine().disks() if not refusals(disk)]
        found = [
            CompletionItem(str(disk.path), help=disk.title)
            for disk in disks
            if str(disk.path).startswith(incomplete) and str(disk.path) not in typed
        ]
        return found or [CompletionItem(incomplete, type="file")]


@click.command()
@click.argument("targets", nargs=-1, type=Target(), metavar="[NODE DEVICE]...")
@file_option
@click.option(
    "--image",
    "raw",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Write this raw image as it is, to one or more DEVICEs, without a node.",
)
@click.option(
    "--bmap",
    "block_map",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="With --image: its block map (bmaptool's). The image is compared with it, and only what it names is "
    "written.",
)
@click.option("--list", "list_only", is_flag=True, help="Show this machine's disks and which may be written.")
@click.option("--allow-fixed", is_flag=True, help="Also write to disks that are not removable.")
@click.option("--no-verify", is_flag=True, help="Do not read back what was written. Faster, and blind.")
@click.option("--yes", is_flag=True, help="Do not ask before erasing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def flash(
    targets: tuple[str, ...],
    file: Path,
    raw: Path | None,
    block_map: Path | None,
    list_only: bool,
    allow_fixed: bool,
    no_verify: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Write nodes' own images to SD cards, USB or NVMe disks; several at once.

    Only used blocks are written, boot blocks last, and everything is read back from the medium. An
    interrupted card does not boot; the same command goes on where it stopped. Disks that this machine uses
    are refused.

    \b
    bramble flash --list
    bramble flash pi4-worker-1 /dev/sdb
    bramble flash pi4-worker-1 /dev/sdb pi4-worker-2 /dev/sdc --yes
    bramble flash --image raspios.img --bmap raspios.bmap /dev/sdb
    """
    if list_only:
        _list(as_json)
    elif not targets:
        raise click.UsageError("Name a NODE and a DEVICE; 'bramble flash --list' shows the devices.")
    elif block_map is not None and raw is None:
        raise click.UsageError("--bmap describes a foreign image; name that with --image.")
    elif raw is not None:
        _flash_raw(
            raw, block_map, [Path(target) for target in targets], allow_fixed, not no_verify, yes, as_json
        )
    elif len(targets) % 2:
        raise click.UsageError(f"{targets[-1]!r} stands alone: each NODE is followed by its DEVICE.")
    else:
        pairs = list(zip(targets[::2], map(Path, targets[1::2]), strict=True))
        _flash_nodes(file, pairs, allow_fixed, not no_verify, yes, as_json)


def _list(as_json: bool) -> None:
    rows = [(disk, refusals(disk)) for disk in Inventory.of_this_machine().disks()]
    if as_json:
        click.echo(
            json.dumps(
                [
                    {
                        "path": str(disk.path),
                        "size_bytes": disk.size_bytes,
                        "model": disk.model,
                        "serial": disk.serial,
                        "transport": disk.transport,
                        "removable": disk.removable,
                        "refused": [refusal.reason for refusal in found],
                    }
                    for disk, found in rows
                ],
                indent=2,
            )
        )
        return
    table = Table("device", "size", "model", "serial", "by", "may be written", box=None, header_style="bold")
    for disk, found in rows:
        verdict = "; ".join(refusal.reason for refusal in found)
        table.add_row(
            str(disk.path),
            f"{disk.size_bytes / 1e9:.1f} GB",
            disk.model or "–",
            disk.serial or "–",
            disk.transport,
            f"no: {verdict}" if verdict else "yes",
        )
    console = out()
    if rows:
        console.print(table)
    else:
        console.print("This machine has no disks that could be written. Plug a card reader in.")


def _flash_nodes(
    file: Path,
    pairs: Sequence[tuple[str, Path]],
    allow_fixed: bool,
    verify: bool,
    yes: bool,
    as_json: bool,
) -> None:
    from bramble.flash import RECORDS, flash_nodes
    from bramble.node_images import open_handouts, require_node
    from bramble.paths import state_layout
    from fleet.spec import load_cluster
    from imagebuilder.cli import ProgressLine, build_shown

    spec = load_cluster(file)
    nodes = [require_node(spec, name) for name, _ in pairs]
    if len({node.name for node in nodes}) != len(nodes):
        raise click.UsageError("A node is named twice: its name can be on one disk only.")
    paths = [path for _, path in pairs]
    # What may not be written is said before an image is built.
    require_media(paths, Inventory.of_this_machine(), needed_bytes=0, allow_fixed=allow_fixed)
    with ProgressLine(show=not as_json) as line:
        image = build_shown(spec, line)
    media = require_media(
        paths,
        Inventory.of_this_machine(),
        needed_bytes=image.disk.stat().st_size,
        allow_fixed=allow_fixed,
    )
    titles = [f"{node.name} → {medium.title}" for node, medium in zip(nodes, media, strict=True)]
    _confirm(titles, yes)
    state = state_layout(spec)
    with open_handouts(spec, state) as handouts, _watching(titles, as_json) as screen:
        results = flash_nodes(
            spec,
            image,
            list(zip(nodes, media, strict=True)),
            handouts,
            records=state.directory / RECORDS,
            verify=verify,
            watcher=screen,
        )
    names = [node.name for node in nodes]
    _finish(
        titles,
        [{"node": name, "path": str(path)} for name, (_, path) in zip(names, pairs, strict=True)],
        results,
        as_json,
    )


def _flash_raw(
    raw: Path,
    block_map: Path | None,
    paths: Sequence[Path],
    allow_fixed: bool,
    verify: bool,
    yes: bool,
    as_json: bool,
) -> None:
    from imagebuilder.flash.batch import Order
    from imagebuilder.flash.mapped import mapped_pieces
    from imagebuilder.flash.source import open_raw

    pieces = mapped_pieces(raw, block_map) if block_map else None
    with open_raw(raw, pieces=pieces) as source:
        media = require_media(
            paths, Inventory.of_this_machine(), needed_bytes=source.size_bytes, allow_fixed=allow_fixed
        )
        titles = [f"{raw.name} → {medium.title}" for medium in media]
        _confirm(titles, yes)
        with _watching(titles, as_json) as screen:
            results = flash_all(
                source,
                [Order(path=path) for path in paths],
                verify=verify,
                on_progress=screen.progress,
                on_end=screen.ended,
            )
    _finish(titles, [{"image": str(raw), "path": str(path)} for path in paths], results, as_json)


def _confirm(titles: Sequence[str], yes: bool) -> None:
    if not yes and is_terminal():
        for title in titles:
            click.echo(title, err=True)
    require_yes(
        "Everything on it will be lost. Go on?", yes=yes, otherwise="Say --yes if everything on it may go."
    )


def _finish(
    titles: Sequence[str], subjects: Sequence[dict[str, str]], results: Sequence[Result], as_json: bool
) -> None:
    if as_json:
        click.echo(json.dumps([_row(*pair) for pair in zip(subjects, results, strict=True)], indent=2))
    failed = [(title, result.error) for title, result in zip(titles, results, strict=True) if result.error]
    for title, error in failed:
        click.secho("error: ", fg="red", bold=True, nl=False, err=True)
        click.echo(f"{title}: {error.message}\n  {error.hint}", err=True)
    if failed:
        sys.exit(1)


def _row(subject: dict[str, str], result: Result) -> dict[str, Any]:
    outcome = result.outcome
    values: dict[str, Any] = {**subject, "ok": outcome is not None}
    if outcome is not None:
        values |= {
            "written_bytes": outcome.written_bytes,
            "skipped_bytes": outcome.skipped_bytes,
            "verified_bytes": outcome.verified_bytes,
            "rewritten": len(outcome.rewritten),
            "write_s": round(outcome.write_s, 2),
            "verify_s": round(outcome.verify_s, 2),
        }
    if result.error is not None:
        values["error"] = result.error.message
    return values


class _Lines:
    """A line for each phase of each medium: for logs, and where stderr is no terminal."""

    def __init__(self, titles: Sequence[str], quiet: bool) -> None:
        self._titles = titles
        self._quiet = quiet
        self._phases: dict[int, Phase] = {}
        self._lock = threading.Lock()

    def progress(self, number: int, phase: Phase, done: int, total: int) -> None:
        with self._lock:
            if not self._quiet and self._phases.get(number) is not phase:
                self._phases[number] = phase
                click.echo(f"{self._titles[number]}: {phase}", err=True)

    def ended(self, number: int, result: Result) -> None:
        if (outcome := result.outcome) is not None and not self._quiet:
            rate = outcome.written_bytes / max(outcome.write_s, 1e-3) / 1e6
            click.echo(
                f"{self._titles[number]}: {outcome.written_bytes / 1e6:.0f} MB written in "
                f"{outcome.write_s:.1f} s ({rate:.0f} MB/s), verified in {outcome.verify_s:.1f} s",
                err=True,
            )


class _Bars(_Lines):
    """A bar for each medium, with rate and time left."""

    def __init__(self, titles: Sequence[str], bars: Progress) -> None:
        super().__init__(titles, quiet=False)
        self._bars = bars
        self._tasks: list[TaskID] = [bars.add_task(title, total=None) for title in titles]

    def progress(self, number: int, phase: Phase, done: int, total: int) -> None:
        task = self._tasks[number]
        if self._phases.get(number) is not phase:
            self._phases[number] = phase
            self._bars.reset(task, total=total, description=f"{self._titles[number]}: {phase}")
        self._bars.update(task, completed=done)


@contextlib.contextmanager
def _watching(titles: Sequence[str], quiet: bool) -> Iterator[_Lines]:
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield _Lines(titles, quiet)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield _Bars(titles, bars)
