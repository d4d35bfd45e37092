"""`bramble image node` and `bramble image apply-delta`: one node's own image as a file."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import click

from bramble.paths import state_layout
from fleet.cli.names import NODE, file_option
from imagebuilder.cli import ProgressLine, build_shown
from imagebuilder.flash.writer import NOTE_OFFSET, OnProgress, Phase

_FILE = click.Path(path_type=Path, dir_okay=False)
_SHARES = {
    Phase.WRITE: (0.0, 0.6),
    Phase.VERIFY: (0.6, 0.39),
    Phase.COMMIT: (0.99, 0.01),
    Phase.DONE: (1.0, 0.0),
}
"""Phase → (share of the work before it, its own share)."""


@click.command()
@click.argument("name", metavar="NODE", type=NODE)
@file_option
@click.option("-o", "--output", type=_FILE, required=True, metavar="FILE", help="The file to write.")
@click.option("--delta", "delta_only", is_flag=True, help="Write only what differs from the cluster's image.")
@click.option(
    "--k3s",
    "release",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Take the k3s release from this directory.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def node(name: str, file: Path, output: Path, delta_only: bool, release: Path | None, as_json: bool) -> None:
    """Write NODE's own image, or its delta, to a file.

    The image is the cluster's with the node's identity, network and single-use ticket in it, ready for any
    tool that writes raw images; what is written is read back. It is as secret as the card that it goes on.
    Each call starts a new installation of the node: files of earlier calls are let in no more.

    \b
    bramble image node pi4-worker-1 -o pi4-worker-1.img
    bramble image node pi4-worker-1 --delta -o pi4-worker-1.delta
    """
    from bramble.flash import install_marker, open_image
    from bramble.node_images import make_node_image, open_handouts, require_node
    from fleet.spec import load_cluster
    from imagebuilder.delta_file import make_delta_file
    from imagebuilder.disk.source import open_source
    from imagebuilder.flash.source import Patch
    from imagebuilder.node_image import require_writable, write_delta, write_node_image

    spec = load_cluster(file)
    if release is not None:
        spec = replace(spec, k3s=replace(spec.k3s, source=release.resolve()))
    declared = require_node(spec, name)
    require_writable(output)
    with ProgressLine(show=not as_json) as line:
        image = build_shown(spec, line)
        started = time.monotonic()
        with open_handouts(spec, state_layout(spec)) as handouts:
            made = make_node_image(spec, declared, image, handouts)
            marker = install_marker(spec, declared, image, made)
            size = image.disk.stat().st_size
            if delta_only:
                patches = sorted([*made.delta, (NOTE_OFFSET, marker)])
                with open_source(image.disk) as source:
                    write_delta(make_delta_file(image.id, size, declared.name, patches, source), output)
            else:
                with open_image(image) as raw:
                    write_node_image(
                        raw,
                        [Patch(offset, data) for offset, data in made.delta],
                        output,
                        marker=marker,
                        on_progress=_shown(line),
                    )
            medium = f"the {'delta ' if delta_only else ''}file {output}"
            handouts.finish(declared.name, made.handout.intent, image_id=image.id, medium=medium)
    seconds = time.monotonic() - started
    if as_json:
        result = {
            "node": declared.name,
            "image_id": image.id,
            "intent": made.handout.intent,
            "path": str(output),
            "size_bytes": output.stat().st_size,
            "delta_bytes": sum(len(data) for _, data in made.delta),
            "seconds": round(seconds, 3),
        }
        click.echo(json.dumps(result))
        return
    what = "delta" if delta_only else "image"
    size = output.stat().st_size
    shown = f"{size / 1e3:.1f} kB" if delta_only else f"{size / 1e6:.0f} MB"
    click.echo(f"{what}      {output}, {shown}, in {seconds:.1f} s")
    click.echo(f"of         {image.id}")
    click.echo(
        "It holds a single-use ticket of the node: keep it to yourself, and remove it when it is on the card."
    )


@click.command(name="apply-delta")
@click.argument("delta", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("image", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", type=_FILE, metavar="FILE", help="Write a new file and leave IMAGE as it is.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def apply_delta(delta: Path, image: Path, output: Path | None, as_json: bool) -> None:
    """Lay the file DELTA over IMAGE, which it makes one node's own.

    IMAGE is the raw image of the cluster, or a card that it was written to. Before anything is written, the
    places that change are compared with what the delta's image has there.

    \b
    bramble image apply-delta pi4-worker-1.delta attic.img -o pi4-worker-1.img
    bramble image apply-delta pi4-worker-1.delta /dev/sdb
    """
    from imagebuilder.delta_file import load_delta
    from imagebuilder.node_image import apply_in_place, apply_to_copy

    found = load_delta(delta)
    if output is None:
        changed = apply_in_place(found, image)
    else:
        with ProgressLine(show=not as_json) as line:
            apply_to_copy(found, image, output, _shown(line))
        changed = True
    target = output or image
    if as_json:
        click.echo(
            json.dumps(
                {"node": found.node, "image_id": found.image_id, "path": str(target), "changed": changed}
            )
        )
    elif changed:
        click.echo(f"{target} is {found.node}'s now")
    else:
        click.echo(f"{target} is {found.node}'s already; nothing was written")


def _shown(line: ProgressLine) -> OnProgress:
    def show(phase: Phase, done: int, total: int) -> None:
        before, own = _SHARES[phase]
        line.update(str(phase), before + own * (done / total if total else 1.0))

    return show
