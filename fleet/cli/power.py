"""`bramble power`: switch a node's board through the outlet that cluster.yaml declares for it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click

from fleet.admin_client import FleetReader
from fleet.cli.groups import HelpfulGroup
from fleet.cli.names import NODE, file_option
from fleet.cli.nodes import reader_of
from fleet.cli.questions import require_yes
from fleet.errors import FleetError

POLL_S: Final = 0.5
PATIENCE_S: Final = 300.0
"""The longest pause between off and on is two minutes; devices take their time too."""


@click.group(cls=HelpfulGroup)
def power() -> None:
    """Switch a board's power: by a smart plug, a PoE switch, or commands of yours. See docs/power.md."""


def _order_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        file_option,
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text."),
        click.option("--dry-run", is_flag=True, help="Say what would be done; nothing is sent."),
        click.argument("node", type=NODE),
    ):
        command = option(command)
    return command


_FORCE = click.option(
    "--force", is_flag=True, help="Also while its disk is written, or where etcd would lose its quorum."
)
_YES = click.option("--yes", is_flag=True, help="Do not ask.")


@power.command()
@_order_options
def on(node: str, dry_run: bool, as_json: bool, file: Path) -> None:
    """Give power to the board of NODE.

    \b
    bramble power on pi4-worker-1
    """
    _order(file, node, "on", dry_run=dry_run, force=False, as_json=as_json, ask=False)


@power.command()
@_order_options
@_FORCE
@_YES
def off(node: str, dry_run: bool, force: bool, yes: bool, as_json: bool, file: Path) -> None:
    """Take the power of NODE's board away, at once: like pulling its plug.

    \b
    bramble power off pi4-worker-1 --dry-run
    bramble power off pi4-worker-1 --yes
    """
    _order(file, node, "off", dry_run=dry_run, force=force, as_json=as_json, ask=not yes)


@power.command()
@_order_options
@_FORCE
@_YES
def cycle(node: str, dry_run: bool, force: bool, yes: bool, as_json: bool, file: Path) -> None:
    """Switch the board of NODE off, and after a pause on again.

    It is seen to be off before it is switched on, where the device tells. At most once a minute and six times
    an hour for each node, whoever asks.

    \b
    bramble power cycle pi4-worker-1
    """
    _order(file, node, "cycle", dry_run=dry_run, force=force, as_json=as_json, ask=not yes)


@power.command()
@click.argument("node", type=NODE)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a word.")
@file_option
def state(node: str, as_json: bool, file: Path) -> None:
    """Ask the device whether NODE's board has power: on, off, or unknown where it cannot tell.

    \b
    bramble power state pi4-worker-1
    """
    answer = reader_of(file).ask("GET", f"{_path(node)}/state")
    click.echo(json.dumps(answer) if as_json else answer["state"])


def _path(node: str) -> str:
    return f"/v1/admin/nodes/{quote(node, safe='')}/power"


def _order(
    file: Path, node: str, action: str, *, dry_run: bool, force: bool, as_json: bool, ask: bool
) -> None:
    reader = reader_of(file)
    value = {"action": action, "dry_run": dry_run, "force": force}
    if ask and not dry_run:
        # What would be refused is refused before anybody is asked.
        steps = reader.ask("POST", _path(node), {**value, "dry_run": True})["steps"]
        require_yes(f"Cut the power of {node} now? That is: {', then '.join(steps)}.", yes=False)
    answer = reader.ask("POST", _path(node), value)
    if dry_run:
        click.echo(
            json.dumps(answer, indent=2) if as_json else "\n".join(f"would {s}" for s in answer["steps"])
        )
        return
    if not as_json:
        for step in answer["steps"]:
            click.echo(step)
    job = _wait(reader, node, answer["job"])
    if as_json:
        click.echo(json.dumps({"steps": answer["steps"], "job": job}, indent=2))
    if job["error"]:
        raise FleetError(job["error"], job["hint"])
    if not as_json:
        click.echo(f"done after {job['ended_at'] - job['started_at']:.0f} s: {job['found']}")


def _wait(reader: FleetReader, node: str, job: dict[str, Any]) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_S
    while job["ended_at"] is None:
        if time.monotonic() >= deadline:
            raise FleetError(
                f"the order for {node} has not ended within {PATIENCE_S:.0f} s",
                f"'bramble show {node}' tells what becomes of it.",
            )
        time.sleep(POLL_S)
        found = reader.ask("GET", _path(node))["job"]
        if found is None or found["number"] != job["number"]:
            raise FleetError(
                f"the server was started again; 'bramble show {node}' tells what became of the order"
            )
        job = found
    return job
