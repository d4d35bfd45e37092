"""`bramble ca`: replacing the control CA, in three steps that lose no node."""

from __future__ import annotations

import time
from pathlib import Path

import click

from fleet.cli.groups import HelpfulGroup
from fleet.cli.nodes import cluster_file, state_directory
from fleet.spec import load_cluster
from fleet.trust.pki_rotation import prepare as prepare_next
from fleet.trust.pki_rotation import retire as retire_previous
from fleet.trust.pki_rotation import switch as switch_to_next


@click.group(cls=HelpfulGroup)
def ca() -> None:
    """Replace the control server's CA, which every installed node trusts."""


@ca.command()
@cluster_file
def prepare(file: Path) -> None:
    """Make the next control CA, and begin to hand it out beside the present one.

    \b
    bramble ca prepare      # restart 'bramble serve', wait a third of policy.certificate_life
    bramble ca switch
    bramble ca retire
    """
    name = load_cluster(file).name
    click.echo(prepare_next(state_directory(name), name, time.time()))


@ca.command()
@cluster_file
@click.option("--force", is_flag=True, help="Also when nodes may not have heard of it yet.")
def switch(file: Path, force: bool) -> None:
    """Put the next control CA in force. Nodes trust it since their last renewal.

    \b
    bramble ca switch
    """
    spec = load_cluster(file)
    life_s = spec.policy.certificate_life_s
    click.echo(switch_to_next(state_directory(spec.name), time.time(), life_s, force=force))


@ca.command()
@cluster_file
def retire(file: Path) -> None:
    """Stop accepting certificates that the old control CA issued.

    \b
    bramble ca retire
    """
    click.echo(retire_previous(state_directory(load_cluster(file).name)))
