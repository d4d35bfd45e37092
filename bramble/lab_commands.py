"""`bramble lab`: the lab's own commands, and the demo that needs every room."""

from __future__ import annotations

from pathlib import Path

import click

from bramble.paths import MIRROR_VARIABLE
from fleet.cli.groups import HelpfulGroup
from lab.cli import board, shell
from lab.cli_bootrom import bootrom
from lab.cli_k3s import k3s


@click.group(cls=HelpfulGroup)
def lab() -> None:
    """Rehearse with virtual boards: no hardware, a private network of their own."""


lab.add_command(board)
lab.add_command(bootrom)
lab.add_command(k3s)
lab.add_command(shell)


@lab.command()
@click.option(
    "--k3s",
    "k3s_release",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="A directory with a k3s release for arm64 and its sha256sum file. Default: the simulator.",
)
@click.option(
    "--mirror",
    envvar=MIRROR_VARIABLE,
    metavar="URL",
    help=f"Debian archive for a base that is not there yet; ${MIRROR_VARIABLE}, or this machine's own.",
)
@click.option("--keep", is_flag=True, help="Keep the work directory: disks, consoles, the server's state.")
@click.option("--plain", is_flag=True, help="One line per event instead of a live table.")
def demo(k3s_release: Path | None, mirror: str | None, keep: bool, plain: bool) -> None:
    """Take three virtual boards from blank disks to a Ready cluster, and cut the power of one.

    A Pi 5 server, a Pi 4 agent and a CM5 agent netboot from a real 'bramble serve' on a private network. No
    hardware, nothing outside this machine. k3s is simulated unless --k3s gives a release.

    \b
    bramble lab demo
    bramble lab demo --k3s ./k3s-v1.33.5
    """
    from bramble.demo import DemoOptions, run_demo

    run_demo(DemoOptions(k3s_release=k3s_release, mirror=mirror, keep=keep, plain=plain))
