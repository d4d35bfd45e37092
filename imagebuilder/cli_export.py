"""What ``bramble build --output`` adds to ``bramble build``: its options, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from imagebuilder.errors import ImageBuilderError

if TYPE_CHECKING:
    from fleet.spec.model import ClusterSpec
    from imagebuilder.build import Image
    from imagebuilder.seal.export import Export

FORMATS: Final = ("img", "zst", "xz", "boot")
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """The options as they were given."""

    output: Path | None
    formats: str
    name: str | None
    url: str | None
    sign_key: Path | None


def export_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that write the image out; it gets them in ``export``."""

    def collected(**given: Any) -> Any:
        mine = {field.name: given.pop(field.name) for field in fields(ExportOptions)}
        return command(export=ExportOptions(**mine), **given)

    collected.__doc__, collected.__name__ = command.__doc__, command.__name__
    collected.__dict__.update(command.__dict__)
    for option in (
        click.option("--sign-key", type=_FILE, metavar="PEM", help="Private key that signs the provenance."),
        click.option(
            "--url", metavar="URL", help="Where DIR will be served; for Raspberry Pi Imager's list."
        ),
        click.option(
            "--name", metavar="NAME", help="How the image files are called.  [default: the cluster]"
        ),
        click.option(
            "--format",
            "formats",
            default="zst",
            show_default=True,
            metavar="LIST",
            help="What goes there: img, zst, xz, boot (files of the network boot); several by commas.",
        ),
        click.option(
            "-o",
            "--output",
            type=click.Path(file_okay=False, path_type=Path),
            metavar="DIR",
            help="Also write the image to this directory, for people and other tools.",
        ),
    ):
        collected = option(collected)
    return collected


def plan_export(spec: ClusterSpec, options: ExportOptions) -> Export | None:
    """What the options say, checked before anything is built; None without ``--output``.

    Raises:
        click.UsageError: a format or a name that cannot be.
        ImageBuilderError: the key or the address cannot be used.
    """
    chosen = dict.fromkeys(word.strip() for word in options.formats.split(",") if word.strip())
    unknown = [word for word in chosen if word not in FORMATS]
    if unknown or not chosen:
        named = ", ".join(repr(word) for word in unknown) or "nothing"
        raise click.UsageError(f"--format: {named} is not one of {', '.join(FORMATS)}.")
    if options.output is None:
        if options.sign_key or options.url or options.name:
            raise click.UsageError(
                "--sign-key, --url and --name say how --output DIR is written; name a DIR."
            )
        return None
    from imagebuilder.seal.export import Export, Format
    from imagebuilder.seal.provenance import load_private_key

    name = options.name or spec.name
    if "/" in name or name.startswith("."):
        raise click.UsageError(f"--name: {name!r} is no file name.")
    if options.url is not None and not options.url.startswith(("http://", "https://")):
        raise ImageBuilderError(
            f"--url: {options.url!r} does not start with http:// or https://",
            "Give the address under which DIR will be served.",
        )
    return Export(
        name=name,
        formats=tuple(Format(word) for word in chosen),
        url=options.url,
        boards=tuple(dict.fromkeys(node.board for node in spec.nodes)),
        key=load_private_key(options.sign_key) if options.sign_key else None,
    )


def write_export(
    image: Image, options: ExportOptions, plan: Export | None, progress: Callable[[str, float], None]
) -> tuple[Path, ...]:
    """Write the image out as planned, and return the paths.

    Raises:
        ImageBuilderError: the image or the directory cannot be used.
    """
    if plan is None or options.output is None:
        return ()
    from imagebuilder.seal.export import export_image

    return export_image(image, options.output, plan, progress)
