"""`bramble logs` and `bramble run`: what a node says, and what it answers to one command."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import quote, urlencode

import click

from fleet.admin_client import BusyError, FleetReader
from fleet.cli.names import NODE, file_option
from fleet.cli.nodes import reader_of
from fleet.errands import ANSWER_TIMEOUT_S
from fleet.errors import FleetError

POLL_S: Final = 0.3
NOT_RUN: Final = 125
"""Exit code where the command was not run or did not end, as `timeout` and `docker run` have it."""


@click.command()
@click.argument("node", type=NODE)
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(1, 1000),
    default=100,
    show_default=True,
    metavar="N",
    help="The newest.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each answer.")
@file_option
def logs(node: str, lines: int, follow: bool, as_json: bool, file: Path) -> None:
    """Show the journal of the agent and of k3s on NODE.

    The node sends them with its next report, within ten seconds (more where there are thousands of nodes);
    while somebody follows it reports every two.
    It takes tokens, passwords and keys out before it sends a line.

    \b
    bramble logs pi4-worker-1
    bramble logs pi4-worker-1 --follow
    """
    reader, cursor, wanted = reader_of(file), "", lines
    while True:
        query = urlencode({"lines": wanted, "cursor": cursor, "follow": str(follow).lower()})
        answer = ask(reader, node, f"logs?{query}")
        if as_json:
            click.echo(json.dumps(answer))
        else:
            _print_lines(answer)
        if not follow:
            return
        cursor, wanted = answer["cursor"], 1000
        if not cursor:
            raise FleetError(f"the journal of {node} can not be read, so there is nothing to follow")


def _print_lines(answer: dict[str, Any]) -> None:
    if answer["source"] == "memory":
        click.echo("(the node's journal can not be read; these are the agent's own last lines)", err=True)
    if answer["dropped"]:
        click.echo(f"({answer['dropped']} older lines were too many to send)", err=True)
    for line in answer["lines"]:
        click.echo(
            "".join(
                sign if sign.isprintable() or sign == "\t" else "\N{REPLACEMENT CHARACTER}" for sign in line
            )
        )


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("node", type=NODE)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1, 25),
    default=20,
    show_default=True,
    metavar="SECONDS",
    help="Give up after.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the output.")
@file_option
def run(node: str, command: tuple[str, ...], timeout_s: float, as_json: bool, file: Path) -> None:
    """Run one COMMAND on NODE and show its output; exits with the command's own status.

    Off unless cluster.yaml says 'policy: {remote_run: on}', and then only on nodes that were installed since:
    a node refuses where its own node.json does not permit it. The command is a list of words and no shell
    reads it. It runs as root in a unit of its own, and stands in the node's timeline with who asked for it.

    \b
    bramble run pi4-worker-1 -- df -h /
    bramble run pi4-worker-1 -- sh -c 'ls /var/log | tail'
    """
    value = {"argv": list(command), "timeout_s": timeout_s}
    reader = reader_of(file)
    try:
        answer = ask(reader, node, "run", value)
    except FleetError as error:
        raise NotRunError(error.message, error.hint) from error
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        click.echo(answer["stdout"], nl=False)
        click.echo(answer["stderr"], nl=False, err=True)
        if answer["dropped_bytes"]:
            click.echo(f"({answer['dropped_bytes']} more bytes were dropped)", err=True)
    if answer["refused"]:
        raise NotRunError(f"{node} did not run it: {answer['refused']}")
    if answer["returncode"] is None:
        click.echo(f"(it was ended after {answer['seconds']:.0f} s)", err=True)
    code = answer["returncode"]
    sys.exit(NOT_RUN if code is None else code if code >= 0 else 128 - code)


class NotRunError(FleetError):
    """No server, no such node, or one that refuses: no status of the command, which may be 1 as well."""

    exit_code: ClassVar[int] = NOT_RUN


def ask(reader: FleetReader, node: str, what: str, value: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask a node, and wait for its answer; for log lines also while somebody else waits for some.

    Raises:
        BusyError: Somebody else waits for a command, or for too long.
        FleetError: It refuses, or does not answer in time.
    """
    path = f"/v1/admin/nodes/{quote(node, safe='')}"
    number = (
        _begin(reader, f"{path}/{what}") if value is None else _number_of(reader, f"{path}/{what}", value)
    )
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    while time.monotonic() < deadline:
        answer: dict[str, Any] = reader.ask("GET", f"{path}/errand/{number}")
        if answer.pop("done"):
            return answer
        time.sleep(POLL_S)
    raise FleetError(
        f"{node} did not answer within {ANSWER_TIMEOUT_S:.0f} s", f"'bramble show {node}' tells why."
    )


def _begin(reader: FleetReader, path: str) -> int:
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    while True:
        try:
            return _number_of(reader, path)
        except BusyError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(POLL_S)


def _number_of(reader: FleetReader, path: str, value: dict[str, Any] | None = None) -> int:
    number: int = reader.ask("GET" if value is None else "POST", path, value)["number"]
    return number
