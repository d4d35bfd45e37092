"""`bramble notify`: the channels through which people are told, and a try of them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from fleet.attention import Urgency
from fleet.cli.groups import HelpfulGroup
from fleet.cli.names import cluster_file, file_option
from fleet.errors import InputError
from fleet.notify import channels
from fleet.notify.ledger import Kind, Notice
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec
from fleet.spec.notify_model import NotifyChannel, channel_document
from fleet.spec.values import suggest


@click.group(cls=HelpfulGroup)
def notify() -> None:
    """Tell people of what needs them: webhooks, ntfy, e-mail.

    The channels stand under 'notify:' in cluster.yaml, their secrets in files that it names. 'bramble serve'
    tells what 'bramble status' lists, once when it begins and once when it is over, and every alarm.
    """


@notify.command("list")
@cluster_file
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of text.")
def list_channels(file: Path, as_json: bool) -> None:
    """List the channels of cluster.yaml.

    \b
    bramble notify list
    """
    spec = load_cluster(file)
    if as_json:
        click.echo(json.dumps([channel_document(channel) for channel in spec.notify], indent=2))
        return
    for channel in spec.notify:
        over = ", also when it is over" if channel.resolved else ""
        click.echo(f"{channel.name}  {channel.driver}  {channel.level.value}{over}")
    if not spec.notify:
        click.echo(f"{spec.path} has no 'notify:', so nobody is told")


@notify.command()
@click.argument("names", nargs=-1, metavar="[CHANNEL]...")
@file_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list: channel, and what was wrong.")
@click.pass_context
def test(context: click.Context, names: tuple[str, ...], file: Path, as_json: bool) -> None:
    """Send a test message through each CHANNEL, or through all of them. Needs no server.

    Exits with 1 when one of them does not take it. Run it as the user of 'bramble serve', who has to be able
    to read the files with the secrets.

    \b
    bramble notify test
    bramble notify test ntfy -c attic.yaml
    """
    spec = load_cluster(file)
    chosen = _choose(spec, names)
    faults = asyncio.run(_try(spec.name, chosen))
    if as_json:
        rows: list[dict[str, Any]] = [
            {"channel": channel.name, "driver": channel.driver, "error": error and str(error)}
            for channel, error in zip(chosen, faults, strict=True)
        ]
        click.echo(json.dumps(rows, indent=2))
    else:
        for channel, error in zip(chosen, faults, strict=True):
            click.echo(f"{channel.name}: {'sent' if error is None else error}")
    context.exit(1 if any(faults) else 0)


def _choose(spec: ClusterSpec, names: Sequence[str]) -> list[NotifyChannel]:
    known = {channel.name: channel for channel in spec.notify}
    if not known:
        hint = "Add one under 'notify:'; docs/notifications.md has an example of each."
        raise InputError(f"{spec.path} has no channel to tell anybody through", hint)
    for name in names:
        if name not in known:
            raise InputError(f"{spec.path} has no channel {name!r}", suggest(name, known))
    return [known[name] for name in names or known]


async def _try(cluster: str, chosen: Sequence[NotifyChannel]) -> list[channels.ChannelError | None]:
    return list(await asyncio.gather(*(_try_one(cluster, channel) for channel in chosen)))


async def _try_one(cluster: str, channel: NotifyChannel) -> channels.ChannelError | None:
    now = time.time()
    notice = Notice(
        id=f"{int(now):x}-test",
        kind=Kind.TEST,
        key="test/",
        code="test",
        subject="",
        urgency=Urgency.SOON,
        text="this is how you will be told of what needs a person",
        hint="Nothing has happened; somebody ran 'bramble notify test'.",
        command="bramble status",
        at=now,
    )
    try:
        await channels.send(channel, cluster, [notice])
    except channels.ChannelError as error:
        return error
    return None
