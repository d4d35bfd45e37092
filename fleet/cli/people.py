"""`bramble approve`, `reject`, `revoke` and `devices`: what a person decides about who may be a node."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from agent.proofs import FINGERPRINT_DIGITS, parse_fingerprint
from fleet.cli.groups import HelpfulGroup
from fleet.cli.names import NODE, cluster_file
from fleet.cli.nodes import reader_of
from fleet.cli.questions import require_yes
from fleet.lifecycle import State
from fleet.trust.device_keys import read_directory

_KEY = click.option(
    "--key", metavar="FINGERPRINT", help="Decide about this key and no other, without a question."
)
_YES = click.option("--yes", is_flag=True, help="Decide about whichever key waits now, without a question.")
_SURE = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command()
@click.argument("node", type=NODE)
@cluster_file
@_KEY
@_YES
def approve(node: str, file: Path, key: str | None, yes: bool) -> None:
    """Let a waiting NODE in, or a quarantined or revoked one try again.

    Shows the fingerprint of the key that waits and asks whether the board's screen shows the same; the
    approval is for that key only.

    \b
    bramble approve pi5-master-1
    bramble approve pi5-master-1 --key 1a2b-3c4d-5e6f-7081-92a3
    """
    reader, compared = reader_of(file), _compared(key)
    if compared is None and not yes:
        found = reader.node(node)
        node, compared = found["name"], found["fingerprint"] or ""
        question = _approval(found)
        if question:
            _ask(question)
    click.echo(reader.decide(node, "approve", compared))


def _approval(node: Mapping[str, Any]) -> str:
    """What approving this node comes to, as a question; "" where there is nothing to approve."""
    name, shown = node["name"], node["fingerprint"]
    if node.get("revoked"):  # a server of before does not tell
        return (
            f"{name} is revoked. Let it ask again? It gets nothing before the key is approved that it shows."
        )
    if node["state"] == State.QUARANTINED:
        return f"{name} is quarantined. Let it try again? An installation is opened that overwrites its disk."
    if shown:
        return (
            f"Does the screen of {name} show {shown}? Then the board with that key is let in, and no other."
        )
    return ""


@click.command()
@click.argument("node", type=NODE)
@cluster_file
@_KEY
@_YES
def reject(node: str, file: Path, key: str | None, yes: bool) -> None:
    """Turn away the key that waits for NODE: no screen shows it, so it is somebody else's.

    What holds the key is told so and gets nothing. The node itself can still ask, with its own key.

    \b
    bramble reject pi5-master-1
    """
    reader, compared = reader_of(file), _compared(key)
    if compared is None and not yes:
        found = reader.node(node)
        node, compared = found["name"], found["fingerprint"] or ""
        if compared:
            _ask(f"Turn away the key {compared} of {node}? What holds it gets nothing, and is told so.")
    click.echo(reader.decide(node, "reject", compared))


@click.command()
@click.argument("node", type=NODE)
@cluster_file
@_SURE
def revoke(node: str, file: Path, yes: bool) -> None:
    """Make the certificate, the tickets and every open permission of NODE void, at once.

    For a board or a disk that was stolen, or a node that somebody broke into. It is asked for with the next
    request, and holds over restarts of the server. What k3s gave the node is not Bramble's to take back: end
    that with 'kubectl delete node'. 'bramble approve NODE' lifts it.

    \b
    bramble revoke pi4-worker-1
    """
    reader = reader_of(file)
    if not yes:
        found = reader.node(node)
        node = found["name"]
        if not found.get("revoked"):
            require_yes(
                f"{node} is {found['state']}. Revoke it? Its certificate, its tickets and what was opened "
                "for it end at once: it can not report, renew, join or be installed until it is approved "
                "again.",
                yes=False,
            )
    click.echo(reader.decide(node, "revoke"))


@click.group(cls=HelpfulGroup)
def devices() -> None:
    """Device keys: what a board's firmware can prove with the key in its OTP memory."""


@devices.command("import")
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@cluster_file
def import_keys(directory: Path, file: Path) -> None:
    """Put the device keys of DIRECTORY on record: one file <serial>.pub for each board.

    That is what rpi-sb-provisioner leaves behind, or 'rpi-fw-crypto pubkey --key-id 1 --out SERIAL.pub' on
    the board. From then on these boards have to prove their key: nobody else can claim their place, and a
    server may be installed again without a person.

    \b
    bramble devices import /srv/provisioned/keys
    """
    click.echo(reader_of(file).import_devices(read_directory(directory)))


@devices.command("list")
@cluster_file
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of text.")
def list_keys(file: Path, as_json: bool) -> None:
    """List the boards whose device key is on record, and where it came from.

    \b
    bramble devices list
    """
    found = reader_of(file).devices()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for key in found:
        click.echo(f"{key['board']}  {key['fingerprint']}  {key['source']:<9}  {key['node'] or ''}".rstrip())
    if not found:
        click.echo("no device key is on record")


@devices.command()
@click.argument("node", type=NODE)
@cluster_file
@_SURE
def forget(node: str, file: Path, yes: bool) -> None:
    """Forget the device key of NODE, and which board it was: its board is replaced.

    \b
    bramble devices forget pi4-worker-1
    """
    reader = reader_of(file)
    if not yes:
        node = reader.node(node)["name"]
    question = f"Forget the device key of {node}? Until the next one is known, anybody can claim to be it."
    require_yes(question, yes=yes)
    click.echo(reader.decide(node, "forget-device"))


def _compared(key: str | None) -> str | None:
    if key is None:
        return None
    digits = parse_fingerprint(key)
    if digits is None:
        raise click.BadParameter(
            f"{key!r} is not a fingerprint: {FINGERPRINT_DIGITS} hex digits or more, as on the screen.",
            param_hint="--key",
        )
    return digits


def _ask(question: str) -> None:
    otherwise = "Say which key with --key FINGERPRINT, or answer with --yes."
    require_yes(question, yes=False, otherwise=otherwise)
