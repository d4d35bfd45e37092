"""Files that some board's bootloader can not take, said when an image is checked, built or served: before a
board tries."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bramble.boot_table import INSTALLER_INITRAMFS
from bramble.paths import agent_package, apt_access, store
from fleet.errors import FleetError
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec
from imagebuilder.build import Image, find_image
from imagebuilder.errors import ImageBuilderError
from pxe.diagnosis.sizes import check_sizes


def boot_files(image: Image) -> list[tuple[str, int]]:
    """Name and size in bytes of what boards read over TFTP to install.

    That is the boot tree, with the installer in the place of the system's own initramfs.
    """
    tree = [path for path in sorted(image.boot_tree.rglob("*")) if path.is_file()]
    files = [(str(path.relative_to(image.boot_tree)), path.stat().st_size) for path in tree]
    kept = [(name, size) for name, size in files if not name.startswith(("initramfs", "initrd"))]
    return [*kept, (INSTALLER_INITRAMFS, image.installer_initramfs.stat().st_size)]


def size_warnings(spec: ClusterSpec, image: Image) -> list[str]:
    """One text for each file that is too large for a bootloader of a declared board, with the mend."""
    warnings: dict[str, str] = {}
    for soc in sorted({node.board.soc for node in spec.nodes}, key=lambda soc: soc.name):
        for warning in check_sizes(boot_files(image), soc):
            nodes = ", ".join(node.name for node in spec.nodes if node.board.soc is soc)
            warnings.setdefault(warning.text, f"{warning.text}; this concerns {nodes}.\n  {warning.mend}")
    return list(warnings.values())


def warn_of_sizes(spec: ClusterSpec, image: Image) -> None:
    """Say them on standard error."""
    for text in size_warnings(spec, image):
        click.secho("warning: ", fg="yellow", bold=True, nl=False, err=True)
        click.echo(text, err=True)


def with_size_warnings(command: click.Command, parameter: str) -> click.Command:
    """The same command, which says them at its end where the cluster's image is in the store.

    Args:
        parameter: of the command, that holds the path of cluster.yaml.
    """
    work: Callable[..., Any] | None = command.callback
    if work is None:
        raise TypeError(f"{command.name} does nothing")

    def callback(*args: Any, **values: Any) -> Any:
        try:
            result = work(*args, **values)
        except click.exceptions.Exit as end:
            if end.exit_code == 0:
                _warn_if_built(values[parameter])
            raise
        _warn_if_built(values[parameter])
        return result

    wrapped = copy.copy(command)
    wrapped.callback = callback
    return wrapped


def _warn_if_built(file: Path) -> None:
    try:
        spec = load_cluster(file)
        image = find_image(spec, store=store(), agent_package=agent_package(), apt=apt_access())
    except (FleetError, ImageBuilderError):
        return  # no base yet, say: nothing whose size is known
    if image is not None:
        warn_of_sizes(spec, image)
