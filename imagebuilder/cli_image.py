"""The commands ``bramble image show`` and ``bramble image verify``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fleet.cli.names import default_file
from imagebuilder.cli import ProgressLine, agent_package, apt_access, store

if TYPE_CHECKING:
    from imagebuilder.manifest import Manifest

_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_DEFAULT = "Default: ./cluster.yaml, else the service's."


@click.command()
@click.argument("image", type=_DIRECTORY, required=False, metavar="[DIR]")
@click.option(
    "-c",
    "--cluster",
    type=_FILE,
    help="Show this cluster's image. Default: ./cluster.yaml, else the service's.",
)
@click.option("--changes", is_flag=True, help="List every file that differs from the base.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole manifest as JSON.")
def show(image: Path | None, cluster: Path | None, changes: bool, as_json: bool) -> None:
    """Say what an image that Bramble built is made of.

    \b
    bramble image show
    bramble image show exported/ --changes
    bramble image show -c cluster.yaml --json | jq .inputs
    """
    from imagebuilder.manifest import load_manifest

    directory = _directory(image, cluster)
    manifest = load_manifest(directory)
    if as_json:
        click.echo(manifest.render(), nl=False)
        return
    for line in _lines(directory, manifest):
        click.echo(line)
    if changes:
        for change in manifest.changes:
            sign = "M" if change.replaced else "A"
            owner = f"{change.uid}:{change.gid}"
            target = f" -> {change.target}" if change.target else ""
            click.echo(f"{sign} {change.volume:4} {change.mode:04o} {owner:9} {change.path}{target}")


@click.command()
@click.argument("image", type=_DIRECTORY, required=False, metavar="[DIR]")
@click.option(
    "-c",
    "--cluster",
    type=_FILE,
    help="Verify this cluster's image. Default: ./cluster.yaml, else the service's.",
)
@click.option("--key", type=_FILE, metavar="PEM", help="Public key that must have signed the provenance.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def verify(image: Path | None, cluster: Path | None, key: Path | None, as_json: bool) -> None:
    """Read an image whole and compare it with what was written down when it was built.

    DIR is a directory that 'bramble build --output' wrote, or one of the store. Exits with 0 where it is as
    it was built, and with 1 where it is not; every difference is named.

    \b
    bramble image verify exported/
    bramble image verify exported/ --key builder.pub
    bramble image verify -c cluster.yaml
    """
    from imagebuilder.seal.export import SUMS
    from imagebuilder.seal.provenance import load_public_key
    from imagebuilder.seal.verify import verify_exported, verify_stored

    directory = _directory(image, cluster)
    with ProgressLine(show=not as_json) as line:
        if (directory / "disk.img.zst").is_file() and not (directory / SUMS).is_file():
            if key is not None:
                raise click.UsageError("Images of the store are not signed; --key is for exported ones.")
            manifest = verify_stored(directory, line.update)
        else:
            signer = load_public_key(key) if key else None
            manifest = verify_exported(directory, signer, line.update)
    if as_json:
        result = {"image_id": manifest.image_id, "ok": True, "signed": key is not None}
        click.echo(json.dumps(result))
        return
    click.echo(f"{directory} is image {manifest.image_id}, as it was built")
    if key is not None:
        click.echo(f"and its provenance is signed by {key}")


def _directory(image: Path | None, cluster: Path | None) -> Path:
    if image is not None:
        if cluster is not None:
            raise click.UsageError("Give either a DIR or --cluster FILE.")
        return image
    file = cluster or default_file()
    if not file.is_file():
        raise click.UsageError("There is no cluster.yaml here. Give a DIR, or --cluster FILE.")
    from fleet.spec import load_cluster
    from imagebuilder.build import find_image
    from imagebuilder.errors import ImageBuilderError

    spec = load_cluster(file)
    found = find_image(spec, store=store(), agent_package=agent_package(), apt=apt_access())
    if found is None:
        raise ImageBuilderError(
            f"the image of {file}, as it is now, has not been built", f"Build it: bramble build {file}"
        )
    return found.root


def _lines(directory: Path, manifest: Manifest) -> list[str]:
    packages = ", ".join(manifest.packages) or "none at build time"
    lines = [
        f"image      {manifest.image_id} in {directory}",
        f"cluster    {manifest.cluster}",
        f"base       {manifest.base.name} ({manifest.base.id}), kernel {manifest.base.kernel}",
        f"k3s        {manifest.k3s.title}",
        f"packages   {packages}",
        f"size       {manifest.mapped_bytes / 1e6:.0f} MB in use of {manifest.size_bytes / 1e6:.0f} MB, "
        f"{manifest.compressed_bytes / 1e6:.0f} MB compressed",
        f"changes    {len(manifest.changes)} files, links and directories",
    ]
    lines.extend(f"made from  {one.name}: sha256 {one.sha256}" for one in manifest.inputs)
    lines.extend(f"made with  {name} {version}" for name, version in sorted(manifest.tools.items()))
    return lines
