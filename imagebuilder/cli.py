"""The command ``bramble build``, and what the other commands of this package share."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fleet.cli.names import cluster_file
from fleet.cli.progress import ProgressLine as ProgressLine
from imagebuilder.cli_export import ExportOptions, export_options, plan_export, write_export
from imagebuilder.errors import ImageBuilderError
from imagebuilder.packages.install import AptAccess
from imagebuilder.sizes import parse_size
from imagebuilder.store import Store

if TYPE_CHECKING:
    from fleet.spec.model import ClusterSpec
    from imagebuilder.bases import FetchProgress
    from imagebuilder.build import Image

MIRROR_VARIABLE = "BRAMBLE_MIRROR"
APT_MIRRORS_VARIABLE = "BRAMBLE_APT_MIRRORS"
BUDGET_VARIABLE = "BRAMBLE_CACHE_BUDGET"

_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@cluster_file
@click.option(
    "--k3s", "release", type=_DIRECTORY, metavar="DIR", help="Take the k3s release from this directory."
)
@export_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def build(file: Path, release: Path | None, export: ExportOptions, as_json: bool) -> None:
    """Build the disk image of a cluster, or find the one that was built before.

    The image goes into the cache; one image serves all nodes, and each node's own values are put in while it
    is written.

    \b
    bramble build cluster.yaml
    bramble build cluster.yaml --output exported/ --format zst,boot
    bramble build cluster.yaml -o exported/ --format xz --url https://images.example.org/attic/
    """
    from fleet.spec import load_cluster

    spec = load_cluster(file)
    if release is not None:
        spec = replace(spec, k3s=replace(spec.k3s, source=release.resolve()))
    plan = plan_export(spec, export)
    started = time.monotonic()
    with ProgressLine(show=not as_json) as line:
        image = build_shown(spec, line)
        built = line.used
        written = write_export(image, export, plan, line.update)
    seconds = time.monotonic() - started
    manifest = image.manifest
    if as_json:
        click.echo(
            json.dumps(
                {
                    "image_id": image.id,
                    "path": os.fspath(image.root),
                    "built": built,
                    "seconds": round(seconds, 3),
                    "size_bytes": manifest.size_bytes,
                    "mapped_bytes": manifest.mapped_bytes,
                    "compressed_bytes": manifest.compressed_bytes,
                    "installer_bytes": image.installer_initramfs.stat().st_size,
                    "base": {
                        "id": manifest.base.id,
                        "name": manifest.base.name,
                        "kernel": manifest.base.kernel,
                    },
                    "written": [os.fspath(path) for path in written],
                    "k3s": {"version": manifest.k3s.version, "simulator": manifest.k3s.simulator},
                }
            )
        )
        return
    click.echo(f"image      {image.id}{'' if built else ' (unchanged)'}")
    made_from = f"{manifest.base.name}, kernel {manifest.base.kernel}, {manifest.k3s.title}"
    click.echo(f"cluster    {manifest.cluster}: {made_from}")
    click.echo(
        f"size       {_mb(manifest.mapped_bytes)} in use of {_mb(manifest.size_bytes)}, "
        f"{_mb(manifest.compressed_bytes)} compressed"
    )
    click.echo(f"installer  {_mb(image.installer_initramfs.stat().st_size)} initramfs")
    click.echo(f"directory  {image.root}")
    for path in written:
        click.echo(f"written    {path}")
    click.echo(f"time       {seconds:.1f} s")


def store() -> Store:
    """The store that ``BRAMBLE_CACHE_DIR`` names, else the one in the user's cache directory.

    Builds keep it below ``BRAMBLE_CACHE_BUDGET``, where that is set.

    Raises:
        ImageBuilderError: the budget is no size.
    """
    directory = os.environ.get("BRAMBLE_CACHE_DIR")
    budget = os.environ.get(BUDGET_VARIABLE)
    try:
        budget_bytes = parse_size(budget) if budget else None
    except ValueError as exc:
        raise ImageBuilderError(f"{BUDGET_VARIABLE}: {exc}", "Or unset it: then nothing is removed.") from exc
    return _store_at(Path(directory) if directory else Store.default().root, budget_bytes)


@functools.cache
def _store_at(root: Path, budget_bytes: int | None) -> Store:
    """One object per process: what a command was handed stays in use until the command ends."""
    return Store(root, budget_bytes=budget_bytes)


def apt_access() -> AptAccess:
    """How archives are reached: ``BRAMBLE_MIRROR`` for Debian's, ``BRAMBLE_APT_MIRRORS`` for others."""
    return AptAccess(os.environ.get(MIRROR_VARIABLE), os.environ.get(APT_MIRRORS_VARIABLE, ""))


def agent_package() -> Path:
    """The directory of the agent's package, found without importing it.

    Raises:
        ImageBuilderError: it is not installed.
    """
    found = importlib.util.find_spec("agent")
    places = list(found.submodule_search_locations or ()) if found else []
    if not places:
        raise ImageBuilderError(
            "the package 'agent' is not installed", "The install is incomplete. Install Bramble again."
        )
    return Path(places[0])


def build_shown(spec: ClusterSpec, line: ProgressLine) -> Image:
    """The image of a cluster, built with the user's settings while a line of progress tells of it.

    Raises:
        ImageBuilderError: those of ``build_image``.
    """
    from imagebuilder.build import build_image

    return build_image(
        spec,
        store=store(),
        agent_package=agent_package(),
        apt=apt_access(),
        progress=line.update,
        on_fetch=lambda step: show_fetch(line, step),
    )


def show_fetch(line: ProgressLine, step: FetchProgress) -> None:
    """A download, a check or an unpacking on the line."""
    line.fetch(step.phase, step.share if step.total else None, step.amounts, step.left_s)


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB"
