"""`bramble apply`: a changed cluster.yaml, put in force in the running server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.text import Text

from fleet.admin_client import FleetReader
from fleet.cli.names import cluster_file
from fleet.cli.nodes import state_directory
from fleet.cli.questions import require_yes
from fleet.errors import InputError
from fleet.spec.load import check_cluster
from fleet.spec.problems import SpecErrors

EXIT_REFUSED: Final = 2
_SIGNS: Final = {
    "add": ("+", "green"),
    "remove": ("-", "red"),
    "change": ("~", "yellow"),
    "refused": ("!", "red"),
}


@click.command()
@cluster_file
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--yes", is_flag=True, help="Remove nodes without a question.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.pass_context
def apply(context: click.Context, file: Path, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Put a changed cluster.yaml in force, without restarting 'bramble serve'.

    Shows the differences to what runs. Nodes that are new install and join when they are switched on. The
    file is taken as a whole or not at all: a change that the running cluster cannot take is explained, and
    nothing is changed. Exits with 2 then, and when the file has an error.

    \b
    bramble apply --dry-run
    bramble apply attic.yaml
    bramble apply --yes          # also where nodes leave, without a question
    """
    checked = check_cluster(file)
    if checked.spec is None:
        raise SpecErrors(checked.problems)
    reader = FleetReader(state_directory(checked.spec.name))
    text, path = _read(file), file.absolute()
    answer = reader.apply(text, path, dry_run=True)
    _raise_errors(answer["problems"])
    kinds = {change["key"].removeprefix("nodes."): change["kind"] for change in answer["changes"]}
    leaving = [name for name, kind in kinds.items() if kind == "remove"]
    refused = "refused" in kinds.values()
    if not as_json:
        _print(answer)
    if not refused and not dry_run:
        if leaving:
            names = ", ".join(leaving)
            require_yes(f"Remove {names}?", yes=yes, otherwise=f"Say --yes if {names} may be removed.")
        answer = reader.apply(text, path, dry_run=False)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        click.echo(_outcome(answer, refused=refused, path=path))
    context.exit(EXIT_REFUSED if refused else 0)


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error


def _raise_errors(problems: list[dict[str, str]]) -> None:
    """The server found what this process did not: it looks at the file's paths with its own eyes."""
    errors = [problem for problem in problems if problem["severity"] == "error"]
    if errors:
        first = errors[0]
        text = f"the server finds {len(errors)} errors: {first['key']}: {first['message']}"
        raise InputError(text, first["hint"])


def _print(answer: Any) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for problem in answer["problems"]:
        console.print(Text(f"{problem['key']}: {problem['message']}", style="yellow"))
    for change in answer["changes"]:
        sign, style = _SIGNS[change["kind"]]
        values = " → ".join(value or "(none)" for value in (change["before"], change["after"]))
        if change["kind"] in ("add", "remove"):
            values = change["after"] or change["before"]
        console.print(Text(f"{sign} {change['key']}: {values}", style=style))
        console.print(Text(f"    {change['effect']}", style="dim"))
        if change["hint"]:
            console.print(Text(f"    {change['hint']}"))


def _outcome(answer: Any, *, refused: bool, path: Path) -> str:
    if refused:
        return "nothing was changed: what is marked with ! can not be"
    if not answer["changes"]:
        return "nothing differs from what runs"
    if not answer["applied"]:
        return "nothing was changed: this was a dry run"
    usual = answer["usual_path"]
    if usual != str(path):
        return f"applied; 'bramble serve' was started with {usual} and reads that when it starts again"
    return "applied"
