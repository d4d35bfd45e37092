"""The commands ``bramble base …``: they parse, call one function, and print."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import click

from fleet.cli.groups import HelpfulGroup
from fleet.cli.questions import require_yes
from imagebuilder.cli import MIRROR_VARIABLE, ProgressLine, show_fetch, store
from imagebuilder.store import Store

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@click.group(cls=HelpfulGroup)
def base() -> None:
    """Stock images that cluster images are made from."""


@base.command(name="build")
@click.argument("name")
@click.option(
    "--mirror",
    envvar=MIRROR_VARIABLE,
    metavar="URL",
    help=f"Debian archive to take packages from; ${MIRROR_VARIABLE}, or the one this host's apt uses.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def base_build(name: str, mirror: str | None, as_json: bool) -> None:
    """Make a base from Debian's packages, or find the one that was made before. Takes minutes the first time.

    \b
    bramble base build debian-trixie
    """
    from imagebuilder.bases import Progress, build_base, require_recipe

    started = time.monotonic()
    with ProgressLine(show=not as_json) as line:

        def show(progress: Progress) -> None:
            items = "" if progress.done is None else f"{progress.done} of {progress.total}"
            line.update(progress.phase, progress.percent / 100, items)

        made = build_base(require_recipe(name), store=store(), mirror=mirror, progress=show)
    if as_json:
        summary = {"id": made.id, "name": made.name, "path": os.fspath(made.disk), "built": line.used}
        click.echo(json.dumps(summary))
        return
    click.echo(f"base       {made.name} {made.id}{'' if line.used else ' (unchanged)'}")
    click.echo(f"kernel     {made.info.kernel_version}")
    click.echo(f"disk       {made.disk}")
    click.echo(f"time       {time.monotonic() - started:.1f} s")


@base.command(name="fetch")
@click.argument("what", metavar="NAME|URL|FILE")
@click.option("--sha256", metavar="HEX", help="Digest of the file, for a URL or a file of this machine.")
@click.option(
    "--mirror",
    metavar="URL",
    help="Take the publisher's files from here; also by a variable, see 'base list'.",
)
@click.option(
    "--key", "keys", type=_FILE, multiple=True, metavar="FILE", help="The publisher's OpenPGP public key."
)
@click.option(
    "--unverified", metavar="NAME", help="Take base NAME although nothing proves it; repeat the name here."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def base_fetch(
    what: str,
    sha256: str | None,
    mirror: str | None,
    keys: tuple[Path, ...],
    unverified: str | None,
    as_json: bool,
) -> None:
    """Download the newest release of a stock image, verify and unpack it into the cache.

    An interrupted download goes on where it ended. What is in the cache already is not downloaded again.

    \b
    bramble base fetch ubuntu-24.04
    bramble base fetch raspios-lite-trixie --mirror http://mirror.example.org/raspios/
    bramble base fetch https://example.org/own.img.xz --sha256 9f86d081…
    bramble base fetch ./own.img.zst
    """
    from imagebuilder.bases import (
        FetchProgress,
        catalogue,
        fetch_image,
        fetch_url,
        import_file,
        require_stock,
    )

    if sha256 is not None and not _SHA256.fullmatch(sha256.lower()):
        raise click.BadParameter(f"{sha256!r} is not 64 hexadecimal digits", param_hint="--sha256")
    digest = sha256.lower() if sha256 else None
    started = time.monotonic()
    with ProgressLine(show=not as_json) as line:

        def show(progress: FetchProgress) -> None:
            show_fetch(line, progress)

        if "://" in what:
            if digest is None:
                raise click.UsageError("A URL needs --sha256, the digest of the file behind it.")
            fetched = fetch_url(what, digest, store=store(), on_progress=show)
        elif what in catalogue().names or not _is_path(what):
            if unverified not in (None, what):
                raise click.BadParameter(f"names {unverified!r}, not {what!r}", param_hint="--unverified")
            if digest is not None:
                raise click.UsageError(
                    "--sha256 belongs to a URL or a file; a name is verified by its publisher."
                )
            image = require_stock(what)
            variable = os.environ.get(image.publisher.mirror_variable)
            fetched = fetch_image(
                image,
                store=store(),
                mirror=mirror or variable or None,
                key_files=keys,
                unverified=unverified == what,
                on_progress=show,
            )
        else:
            fetched = import_file(Path(what).absolute(), digest, store=store(), on_progress=show)
    origin, made = fetched.origin, fetched.base
    if as_json:
        click.echo(json.dumps({**_record(made.id, origin, made.disk), "downloaded": fetched.downloaded}))
        return
    click.echo(
        f"base       {origin.name} {origin.release}{'' if fetched.downloaded else ' (unchanged)'}".rstrip()
    )
    click.echo(f"system     {made.info.distribution} {made.info.suite}, kernel {made.info.kernel_version}")
    click.echo(f"proof      {origin.proof}: {origin.evidence}")
    click.echo(f"disk       {made.disk}")
    click.echo(f"time       {time.monotonic() - started:.1f} s")


@base.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of text.")
def base_list(as_json: bool) -> None:
    """List the bases that there are, and which of them are in the cache.

    \b
    bramble base list
    bramble base list --json
    """
    from imagebuilder.bases import catalogue
    from imagebuilder.bases.inventory import list_bases

    rows = list_bases(store())
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows]))
        return
    for row in rows:
        how = "build" if row.name in catalogue().recipes else "fetch"
        if row.base is None:
            state = f"get it with: bramble base {how} {row.name}"
        else:
            state = f"kernel {row.base.info.kernel_version}"
        if row.origin is not None:
            state = f"{row.origin.release or 'own'}, {state}, proof: {row.origin.proof}".removeprefix("own, ")
        click.echo(f"{row.name:24} {state}")
        if row.title:
            click.echo(f"{'':24} {row.title}{row.mirror_hint}")


@base.command(name="show")
@click.argument("what", metavar="NAME|URL|FILE|ID")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def base_show(what: str, as_json: bool) -> None:
    """Show what a base in the cache is, where it came from, and what proved it.

    \b
    bramble base show ubuntu-24.04
    """
    from imagebuilder.bases.inventory import require_rows
    from imagebuilder.inspect import inspect_image

    rows = require_rows(what, store())
    made = rows[0].base
    assert made is not None  # rows of require_rows are in the cache
    facts = inspect_image(made.disk)
    if as_json:
        known = [_record(made.id, row.origin, made.disk) for row in rows if row.origin is not None]
        body: dict[str, Any] = {
            "id": made.id,
            "name": made.name,
            "path": os.fspath(made.disk),
            "disk_sha256": made.info.disk_sha256 or None,
            "packages": dict(made.info.packages),
            "recipe": dict(made.info.recipe) or None,
            "origins": known,
            "image": facts.to_json(),
        }
        click.echo(json.dumps(body))
        return
    click.echo(f"base       {made.name} {made.id}")
    click.echo(f"system     {facts.system.title} ({facts.system.architecture}), first boot: {facts.dialect}")
    click.echo(f"kernel     {made.info.kernel_version}; boots on {_boards(facts.boards)}")
    click.echo(f"packages   {len(made.info.packages)}")
    for part in made.info.layout:
        size = part.sectors * 512 / 2**20
        click.echo(
            f"part {part.number}     {part.filesystem} {part.label!r}, sector {part.start_lba}, "
            f"{size:.0f} MiB"
        )
    for row in rows:
        if row.origin is not None:
            origin = row.origin
            click.echo(f"from       {origin.source} {origin.release}".rstrip())
            click.echo(f"           sha256 {origin.file_sha256}, fetched {origin.fetched_at}")
            click.echo(f"proof      {origin.proof}: {origin.evidence}")
    if made.info.recipe:
        click.echo(f"made from  Debian packages of {made.info.built_with.get('suites')}")
    click.echo(
        f"disk       {made.disk}, {_allocated(made.disk)} of {made.info.size_bytes / 1e6:.0f} MB in use"
    )


@base.command(name="remove")
@click.argument("what", metavar="NAME|URL|FILE|ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
def base_remove(what: str, yes: bool) -> None:
    """Remove a base from the cache, all its releases. Images that were made from it stay.

    \b
    bramble base remove ubuntu-22.04
    """
    from imagebuilder.bases.inventory import remove_rows, require_rows

    rows = require_rows(what, Store(store().root))  # not the command's own, which keeps what it finds in use
    for base_id in dict.fromkeys(row.base.id for row in rows if row.base):
        click.echo(f"{what}: {base_id}")
    require_yes("Remove it from the cache?", yes=yes)
    freed = remove_rows(what, store())
    click.echo(f"removed, {freed / 1e6:.0f} MB are free again")


def _is_path(what: str) -> bool:
    return os.sep in what or Path(what).exists() or what.endswith((".img", ".xz", ".zst", ".gz", ".zip"))


def _record(base_id: str, origin: Any, disk: Path) -> dict[str, Any]:
    return {
        "id": base_id,
        "name": origin.name,
        "release": origin.release or None,
        "source": origin.source,
        "file_sha256": origin.file_sha256,
        "proof": origin.proof.value,
        "evidence": origin.evidence,
        "fetched_at": origin.fetched_at,
        "path": os.fspath(disk),
    }


def _boards(boards: Any) -> str:
    return ", ".join(board.model.value for board in boards if board.problem is None) or "none"


def _allocated(disk: Path) -> str:
    return f"{disk.stat().st_blocks * 512 / 1e6:.0f}"
