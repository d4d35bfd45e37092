"""The command ``bramble build``, and what the other commands of this package share."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click

from imagebuilder.cli_export import ExportOptions, export_options, plan_export, write_export
from imagebuilder.errors import ImageBuilderError
from imagebuilder.packages.install import AptAccess
from imagebuilder.sizes import parse_size
from imagebuilder.store import Store

MIRROR_VARIABLE = "BRAMBLE_MIRROR"
APT_MIRRORS_VARIABLE = "BRAMBLE_APT_MIRRORS"
BUDGET_VARIABLE = "BRAMBLE_CACHE_BUDGET"

_CLUSTER = click.Path(dir_okay=False, path_type=Path)
_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("cluster", type=_CLUSTER, default="cluster.yaml")
@click.option(
    "--k3s", "release", type=_DIRECTORY, metavar="DIR", help="Take the k3s release from this directory."
)
@export_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def build(cluster: Path, release: Path | None, export: ExportOptions, as_json: bool) -> None:
    """Build the disk image of a cluster, or find the one that was built before.

    The image goes into the cache; one image serves all nodes, and each node's own values are put in while it
    is written.

    \b
    Examples:
      bramble build cluster.yaml
      bramble build cluster.yaml --output exported/ --format zst,boot
      bramble build cluster.yaml -o exported/ --format xz --url https://images.example.org/attic/
    """
    from fleet.spec import load_cluster
    from imagebuilder.build import build_image

    spec = load_cluster(cluster)
    if release is not None:
        spec = replace(spec, k3s=replace(spec.k3s, source=release.resolve()))
    plan = plan_export(spec, export)
    started = time.monotonic()
    with ProgressLine(show=not as_json) as line:
        image = build_image(
            spec, store=store(), agent_package=agent_package(), apt=apt_access(), progress=line.update
        )
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


SETTLED_S = 3.0
SETTLED_SHARE = 0.03
"""Sooner than that, the time that is left would jump about."""


class ProgressLine:
    """One line on stderr, rewritten on a terminal; elsewhere a line per step. Silent until work begins.

    On a terminal it tells how long the rest will take, when enough is done to say so.
    """

    def __init__(self, *, show: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.used = False
        self._clock = clock
        self._started: tuple[float, float] | None = None
        self._show = show
        self._last = ""
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal and self._last:
            click.echo("\r\x1b[K", nl=False, err=True)

    def update(self, text: str, share: float) -> None:
        """Show what is being done; ``share`` of the work is done, 0.0–1.0."""
        self.used = self.used or share > 0
        line = f"{share:4.0%} {text}"
        if not self._show or not self.used or line == self._last:
            return
        if self._started is None or share < self._started[1]:
            self._started = self._clock(), share  # another piece of work begins
        if self._terminal:
            left = time_left_s(self._clock() - self._started[0], share - self._started[1], 1 - share)
            rest = "" if left is None else f", {_duration(left)} left"
            click.echo(f"\r\x1b[K{line}{rest}", nl=False, err=True)
        elif text != self._last.partition("% ")[2]:
            click.echo(line, err=True)
        self._last = line


def time_left_s(elapsed_s: float, done: float, rest: float) -> float | None:
    """How long `rest` of the work will take, when `done` of it took so long; None while that is a guess."""
    if elapsed_s < SETTLED_S or done < SETTLED_SHARE:
        return None
    return elapsed_s * rest / done


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB"
