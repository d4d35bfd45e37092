"""`bramble ca`: replacing the control CA, in three steps that lose no node."""

from __future__ import annotations

import time
from pathlib import Path

import click

from fleet.cli.groups import HelpfulGroup
from fleet.cli.nodes import cluster_file, state_directory, store_place
from fleet.cli.questions import require_yes
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec
from fleet.store.database import NoRecordError, Store
from fleet.trust.pki_rotation import prepare as prepare_next
from fleet.trust.pki_rotation import require_retire, require_switch
from fleet.trust.pki_rotation import retire as retire_previous
from fleet.trust.pki_rotation import switch as switch_to_next
from fleet.trust.rotation_reach import Reach, reach, retire_question, switch_question

_YES = click.option("--yes", is_flag=True, help="Do not ask.")


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
@_YES
def switch(file: Path, force: bool, yes: bool) -> None:
    """Put the next control CA in force, which nodes trust since their last renewal.

    Says before how many nodes have it, and which will have to be installed again.

    \b
    bramble ca switch
    """
    spec = load_cluster(file)
    state, life_s = state_directory(spec.name), spec.policy.certificate_life_s
    if not yes:
        announced = require_switch(state, time.time(), life_s, force=force)
        require_yes(switch_question(_reach(spec, announced), announced), yes=False)
    click.echo(switch_to_next(state, time.time(), life_s, force=force))


@ca.command()
@cluster_file
@_YES
def retire(file: Path, yes: bool) -> None:
    """Stop accepting certificates that the old control CA issued.

    Says before how many nodes have one of the present CA, and which will be refused.

    \b
    bramble ca retire
    """
    spec = load_cluster(file)
    state = state_directory(spec.name)
    if not yes:
        since = require_retire(state)
        question = retire_question(_reach(spec, since), is_in_use=since is not None)
        require_yes(question, yes=False)
    click.echo(retire_previous(state))


def _reach(spec: ClusterSpec, since: float | None) -> Reach:
    """Who was given a certificate since then; nobody, where it is None.

    Raises:
        StoreError: The record cannot be read.
    """
    try:
        store = Store.open_readonly(store_place(spec))
    except NoRecordError:
        return Reach((), ())  # no server ever had a node
    try:
        with store.read() as reader:
            return reach(reader.nodes(), frozenset() if since is None else reader.enrolled_since(since))
    finally:
        store.close()
