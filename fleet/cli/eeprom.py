"""`bramble eeprom`: the bootloader's settings, recommended, checked, and applied through the agent."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from fleet.boards import BoardError, BoardModel
from fleet.cli.groups import HelpfulGroup
from fleet.cli.names import NODE, cluster_file
from fleet.cli.nodes import fleet_reader
from fleet.cli.questions import is_terminal, require_yes
from fleet.eeprom.config import Problem, check_config
from fleet.eeprom.recommend import recommend, render, settings_of
from fleet.errors import InputError
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec, NodeSpec
from fleet.spec.values import suggest

FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(cls=HelpfulGroup)
def eeprom() -> None:
    """Bootloader settings of boards: what suits a node and why, what is wrong with a file, and
    applying it.
    """


@eeprom.command()
@cluster_file
@click.option(
    "--board", "model", metavar="MODEL", help="For this model: pi4, pi400, cm4, pi5, pi500, cm5, cm5-lite."
)
@click.option(
    "--node", "name", type=NODE, metavar="NODE", help="A node of cluster.yaml: its disk and address are used."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def config(file: Path, model: str | None, name: str | None, as_json: bool) -> None:
    """Print recommended bootloader settings, each with its reason.

    Standard output holds the file alone, for rpi-eeprom-config --apply; the reasons go to standard error.

    \b
    bramble eeprom config --board pi5
    bramble eeprom config --node pi5-master-1 > boot.conf
    """
    board, node, port = _subject(file, model, name)
    items = recommend(board, node, netconsole_port=port)
    text = render(board, node, items)
    if as_json:
        values = {"board": board.yaml_name, "settings": [asdict(item) for item in items], "file": text}
        click.echo(json.dumps(values, indent=2))
        return
    for item in items:
        optional = " (if you need it)" if item.is_optional else ""
        click.echo(f"{item.key}={item.value}{optional}\n    {item.reason}.", err=True)
    click.echo("", err=True)
    click.echo(text, nl=False)


@eeprom.command()
@click.argument("settings", type=FILE)
@click.option("--board", "model", metavar="MODEL", required=True, help="The model that it is for.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of text.")
def check(settings: Path, model: str, as_json: bool) -> None:
    """Say what is wrong with a file of bootloader settings: unknown keys, values, and orders that do not
    boot.

    The bootloader itself ignores what it does not know, without a word. SETTINGS is the output of
    rpi-eeprom-config on the board. Exits with 2 where something will not work.

    \b
    bramble eeprom check boot.conf --board pi5
    """
    board = _board(model)
    try:
        text = settings.read_text("utf-8", "replace")
    except OSError as error:
        raise InputError(f"{settings}: {error.strerror}", "Name a file of KEY=value lines.") from error
    problems = check_config(text, board)
    if as_json:
        click.echo(json.dumps([asdict(problem) for problem in problems], indent=2))
    else:
        for problem in problems:
            click.echo(_line(settings, problem))
        if not problems:
            click.echo(f"{settings}: nothing to mend")
    click.get_current_context().exit(2 if any(problem.is_error for problem in problems) else 0)


@eeprom.command()
@click.argument("node", type=NODE)
@cluster_file
@click.option("--yes", is_flag=True, help="Do not ask.")
def apply(node: str, file: Path, yes: bool) -> None:
    """Let the agent of NODE write the recommended settings into its board's EEPROM.

    The agent merges them into what the EEPROM holds, says the difference in the node's timeline, and changes
    nothing where the board is another model or has no rpi-eeprom-config. They take effect at the next
    restart.

    \b
    bramble eeprom apply pi5-master-1
    """
    spec = load_cluster(file)
    declared = _node(spec, node)
    items = recommend(declared.board, declared, netconsole_port=spec.network.ports.netconsole)
    reader = fleet_reader(spec)
    if not yes:
        reader.node(node)
        if is_terminal():
            click.echo(render(declared.board, declared, items), nl=False)
        require_yes(f"Write these settings into the EEPROM of {node}?", yes=False)
    click.echo(reader.order_eeprom(node, settings_of(items)))


def _subject(file: Path, model: str | None, name: str | None) -> tuple[BoardModel, NodeSpec | None, int]:
    if (model is None) == (name is None):
        raise click.UsageError("Say either --board or --node.")
    if name is None:
        return _board(model or ""), None, 0
    spec = load_cluster(file)
    node = _node(spec, name)
    return node.board, node, spec.network.ports.netconsole


def _board(model: str) -> BoardModel:
    try:
        return BoardModel.parse(model)
    except BoardError as error:
        raise InputError(str(error), "'bramble eeprom config --help' lists the models.") from error


def _node(spec: ClusterSpec, name: str) -> NodeSpec:
    node = spec.find_node(name)
    if node is None:
        hint = suggest(name, (known.name for known in spec.nodes))
        raise InputError(f"{spec.path} has no node {name!r}", hint)
    return node


def _line(settings: Path, problem: Problem) -> str:
    place = f"{settings}:{problem.line}" if problem.line else str(settings)
    kind = "error" if problem.is_error else "warning"
    hint = f"\n    {problem.hint}" if problem.hint else ""
    return f"{place}: {kind}: {problem.message}{hint}"
