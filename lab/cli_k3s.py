"""`bramble lab k3s`: the simulator as a release directory, for a cluster.yaml of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import click

from lab.errors import UsageError
from lab.k3s_sim.release import build_release

DEFAULT_VERSION = "v1.33.5+k3s1"


@click.command("k3s")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--release",
    default=DEFAULT_VERSION,
    show_default=True,
    metavar="VERSION",
    help="The k3s release that it passes for.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def k3s(directory: Path, release: str, as_json: bool) -> None:
    """Write the lab's k3s simulator into DIRECTORY, in the shape of a k3s release.

    For rehearsals where no release can be downloaded: name DIRECTORY as cluster.k3s.source. It speaks the
    protocol of joining and runs no containers; 'bramble nodes' marks nodes that run it.

    \b
    bramble lab k3s ./k3s-simulator
    bramble lab k3s ./k3s-simulator --release v1.33.5+k3s1
    """
    try:
        build_release(directory, release)
    except ValueError as exc:
        raise UsageError(f"--release: {exc}", "Give it as cluster.k3s.version has it.") from exc
    if as_json:
        result = {"directory": str(directory), "release": release, "simulator": True}
        click.echo(json.dumps(result, ensure_ascii=False))
    else:
        click.echo(f"{directory}: a simulator of k3s {release}, no release of k3s")
