"""`bramble rollout`: another image for the whole fleet, node by node."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fleet.admin_client import FleetReader
from fleet.cli.groups import HelpfulGroup
from fleet.cli.names import NODE, file_option
from fleet.cli.nodes import cluster_file, reader_of
from fleet.cli.questions import require_yes
from fleet.cli.render import age, out, state_text
from fleet.errors import FleetError
from fleet.policy.words import span_text
from fleet.spec.values import ValueFault, parse_duration

EXIT_REFUSED: Final = 1
WATCH_S: Final = 2.0
_PATH: Final = "/v1/admin/rollout"
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
_STYLES: Final = {"done": "green", "running": "cyan", "failed": "bold red", "skipped": "dim"}


def _parse_soak(ctx: click.Context, param: click.Parameter, value: str) -> int:
    """Seconds from 90s, 10m, 2h or 1d."""
    try:
        return parse_duration(value)
    except ValueFault as fault:
        raise click.BadParameter(f"{fault.message}. {fault.hint}", ctx, param) from fault


@click.group(cls=HelpfulGroup, invoke_without_command=True)
@click.option("--image", metavar="ID", help="Of the image; left out: that of the cluster.yaml in force.")
@click.option("--canary", type=NODE, metavar="NODE", help="Goes first and alone; left out: one is chosen.")
@click.option(
    "--max-parallel",
    type=click.IntRange(min=1),
    metavar="N",
    help="Agents at a time, up to 'policy.reimage.max_parallel', which is the default.",
)
@click.option(
    "--soak",
    default="10m",
    show_default=True,
    callback=_parse_soak,
    metavar="TIME",
    help="How long the canary has to be Ready before the others follow.",
)
@click.option("--dry-run", is_flag=True, help="Show the order of nodes and what stands against it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--wait", is_flag=True, help="Follow it to its end; exits with 1 unless that is good.")
@_JSON
@file_option
@click.pass_context
def rollout(
    context: click.Context,
    image: str | None,
    canary: str | None,
    max_parallel: int | None,
    soak: int,
    dry_run: bool,
    yes: bool,
    wait: bool,
    as_json: bool,
    file: Path,
) -> None:
    """Install the whole fleet again with another image, node by node.

    One node goes first, the canary, and is watched. Then agents in batches and servers one by one, each under
    the same checks as 'bramble reimage', within the windows of the policy. Agents go first, so that the image
    is proven before etcd loses a member for a while; where k3s gets newer, servers do, because no agent may
    run a newer one. The first node that fails stops it. It goes on by itself over restarts of the server.

    Make an image with 'bramble build', put its file in force with 'bramble apply', then roll it out.

    \b
    bramble rollout --dry-run
    bramble rollout --canary pi4-worker-1 --soak 1h --wait
    bramble rollout --image 1c0ffee12345 --yes     # back to an earlier image
    bramble rollout status --watch
    bramble rollout resume
    """
    if context.invoked_subcommand is not None:
        return
    wanted = {
        "image": image,
        "canary": canary,
        "max_parallel": max_parallel,
        "soak_s": soak,
        "dry_run": True,
    }
    reader = reader_of(file)
    answer = reader.ask("POST", _PATH, wanted)
    console = Console(highlight=False, soft_wrap=True)
    if not as_json:
        _print_plan(console, answer)
    if not dry_run and not answer["problems"]:
        question = f"Install {len(answer['plan']['nodes'])} node(s) again, one after the other?"
        require_yes(question, yes=yes, otherwise="Look with --dry-run, and answer with --yes.")
        # The image by its whole id: the plan that was shown is the one that is carried out.
        answer = reader.ask("POST", _PATH, {**wanted, "image": answer["plan"]["image"], "dry_run": False})
    has_begun = bool(answer["message"])
    if not as_json:
        click.echo(answer["message"] or "nothing was changed")
    ended = _follow(reader, quiet=as_json) if has_begun and wait else None
    if as_json:
        click.echo(json.dumps(answer | ({} if ended is None else {"rollout": ended}), indent=2))
    if ended is not None and ended["phase"] != "done":
        raise FleetError(
            f"rollout {ended['number']} is {ended['phase']}: {ended['reason']}",
            "'bramble rollout status' shows the nodes; 'bramble rollout resume' goes on, 'abort' ends it.",
        )
    context.exit(EXIT_REFUSED if answer["problems"] else 0)


def _follow(reader: FleetReader, *, quiet: bool) -> Any:
    """Show how it goes until it has ended, or does not go on without a person: a table that is kept up to
    date on a terminal, a line for each change elsewhere."""
    console = Console(highlight=False, soft_wrap=True, stderr=True)
    said: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        is_live = console.is_terminal and not quiet
        live = stack.enter_context(Live(console=console, auto_refresh=False)) if is_live else None
        while True:
            shown = reader.look(_PATH)["rollout"]
            if live is not None:
                live.update(_table(shown, time.time()), refresh=True)
            for step in () if live is not None or quiet else shown["steps"]:
                why = f": {step['reason']}" if step["reason"] else ""
                now = f"{step['state']}, {step['node_state'] or 'gone'}{why}"
                if said.setdefault(step["node"], now if step["state"] == "waiting" else "") != now:
                    said[step["node"]] = now
                    console.print(Text(f"{step['node']}: {now}"))
            if shown["phase"] != "running":
                return shown
            time.sleep(WATCH_S)


def _print_plan(console: Console, answer: Any) -> None:
    plan = answer["plan"]
    console.print(f"image {plan['image'][:12]}, k3s {plan['k3s_version']}; {plan['order']}")
    for place, node in enumerate(plan["nodes"], 1):
        has = (node["image"] or "unknown")[:12]
        first = f", goes first and is watched for {span_text(plan['soak_s'])}" if place == 1 else ""
        console.print(f"{place:>4} {node['node']:<20} {node['role']}, {node['state']}, has {has}{first}")
    for kind, style in (("problems", "red"), ("warnings", "yellow")):
        for found in answer[kind]:
            console.print(Text(f"{'!' if kind == 'problems' else '-'} {found['text']}", style=style))
            if found["hint"]:
                console.print(Text(f"    {found['hint']}"))


@rollout.command()
@cluster_file
@_JSON
@click.option("--watch", is_flag=True, help="Keep it up to date until it has ended, or is interrupted.")
def status(file: Path, as_json: bool, watch: bool) -> None:
    """Show the last rollout: where every node is, what it waits for, and the time left.

    The time is measured from the nodes that are done, and knows nothing of windows.

    \b
    bramble rollout status
    bramble rollout status --watch
    bramble rollout status --json
    """
    reader = reader_of(file)
    if as_json:
        click.echo(json.dumps(reader.ask("GET", _PATH)["rollout"], indent=2))
        return
    console = out()
    if not watch:
        console.print(_table(reader.ask("GET", _PATH)["rollout"], time.time()))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            shown = reader.look(_PATH)["rollout"]
            live.update(_table(shown, time.time()), refresh=True)
            if shown is None or shown["closed_at"] is not None:
                return
            time.sleep(WATCH_S)


def _table(shown: Any, now: float) -> Group | Text:
    if shown is None:
        return Text("There was no rollout yet.")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("node", "role", "step", "state", "took", ""):
        table.add_column(name)
    for step in shown["steps"]:
        took = "" if step["began"] is None else span_text((step["ended"] or now) - step["began"])
        note = step["reason"] or ("canary" if step["canary"] else "")
        word = Text(step["state"], style=_STYLES.get(step["state"], ""))
        state = state_text(step["node_state"]) if step["node_state"] else Text("gone")
        table.add_row(step["node"], step["role"], word, state, took, note)
    return Group(table, Text(f"\n{_summary(shown, now)}"))


def _summary(shown: Any, now: float) -> str:
    lines = [
        f"rollout {shown['number']} of image {shown['image'][:12]} by {shown['by']}, "
        f"{age(now - shown['requested_at'])} ago: {shown['phase']}, {shown['done']} of {shown['total']} done"
    ]
    if shown["reason"]:
        lines.append(shown["reason"])
    if shown["time_left_s"] is not None:
        lines.append(f"about {span_text(shown['time_left_s'])} left")
    if shown["phase"] in ("stopped", "paused"):
        lines.append("'bramble rollout resume' goes on, 'bramble rollout abort' ends it")
    return "\n".join(lines)


def _simple(word: str, doc: str) -> click.Command:
    """A command that says one word to the server."""

    @click.command(name=word, help=doc)
    @cluster_file
    @_JSON
    def command(file: Path, as_json: bool) -> None:
        answer = reader_of(file).ask("POST", f"{_PATH}/{word}", {})
        click.echo(json.dumps(answer) if as_json else answer["message"])

    return command


rollout.add_command(
    _simple(
        "pause",
        "Take no further node of the rollout; those that are under way go on to their end.\n\n\b\n"
        "bramble rollout pause",
    )
)
rollout.add_command(
    _simple(
        "resume",
        "Go on where a rollout was paused, or stopped by a node that failed; that one gets another turn."
        "\n\n\b\nbramble rollout resume",
    )
)
rollout.add_command(
    _simple(
        "abort",
        "End the rollout. Nodes that have the new image keep it.\n\n"
        "'bramble rollout --image OLD' rolls them back.\n\n\b\nbramble rollout abort",
    )
)
