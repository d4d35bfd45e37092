"""`bramble check` and `bramble init`: from words on a terminal to `fleet.spec` and back."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.text import Text

from fleet.cli.names import DEFAULT_FILE, cluster_argument, cluster_file
from fleet.cli.questions import is_terminal
from fleet.errors import FleetError, InputError
from fleet.host_network import HostNetwork, read_host_networks
from fleet.printable import counted
from fleet.spec import values
from fleet.spec.export import effective_values, to_document
from fleet.spec.load import CheckedCluster, check_cluster, check_text, loader_surroundings
from fleet.spec.problems import Problem, Severity, SpecErrors
from fleet.spec.starter import StarterValues, render_starter

T = TypeVar("T")

EXIT_INVALID = 2


@click.command()
@cluster_file
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--show", is_flag=True, help="Also print every value in force and where it comes from.")
@click.pass_context
def check(context: click.Context, file: Path, as_json: bool, show: bool) -> None:
    """Check a cluster.yaml and report every problem at once.

    FILE is cluster.yaml where it is not given, or that of the service where there is none here. Exits with 0
    if the file can be used (warnings are allowed) and with 2 if it cannot.

    \b
    bramble check
    bramble check attic.yaml --show
    """
    checked = check_cluster(file)
    if as_json:
        click.echo(json.dumps(_report(checked, show), indent=2))
    else:
        _print_report(checked, show)
    context.exit(EXIT_INVALID if checked.spec is None else 0)


def summarise(checked: CheckedCluster) -> str:
    """The closing line: `attic: 8 nodes (3 servers, 5 agents), 0 errors, 1 warning`."""
    spec = checked.spec
    counts = f"{counted(len(checked.errors), 'error')}, {counted(len(checked.warnings), 'warning')}"
    if spec is None:
        return f"{checked.path}: {counts}"
    roles = f"{counted(len(spec.servers), 'server')}, {counted(len(spec.agents), 'agent')}"
    return f"{spec.name}: {counted(len(spec.nodes), 'node')} ({roles}), {counts}"


def _report(checked: CheckedCluster, show: bool) -> dict[str, Any]:
    spec = checked.spec
    report: dict[str, Any] = {
        "file": str(checked.path),
        "ok": spec is not None,
        "summary": summarise(checked),
        "problems": [problem.to_json() for problem in checked.problems],
        "cluster": None if spec is None else to_document(spec),
    }
    if spec is not None:
        report["boards"] = dict(Counter(node.board.yaml_name for node in spec.nodes))
        if show:
            report["values"] = [
                {"key": value.key, "value": value.value, "origin": value.origin}
                for value in effective_values(spec, checked.document)
            ]
    return report


def _print_report(checked: CheckedCluster, show: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if show and checked.spec is not None:
        shown = list(effective_values(checked.spec, checked.document))
        key_width = max(len(value.key) for value in shown)
        origin_width = max(len(value.origin) for value in shown)
        for value in shown:
            # Values stand last: a key of 400 characters then breaks no column, and grep finds whole lines.
            origin = Text(f"{value.origin:<{origin_width}}", style="dim")
            console.print(Text.assemble(f"{value.key:<{key_width}}  ", origin, f"  {_shown(value.value)}"))
    for problem in checked.problems:
        console.print(_coloured(problem))
    style = "red" if checked.errors else "yellow" if checked.warnings else "green"
    console.print(Text(summarise(checked), style=style))


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    return value if isinstance(value, str) else json.dumps(value)


def _coloured(problem: Problem) -> Text:
    style = "red" if problem.severity is Severity.ERROR else "yellow"
    text = Text(str(problem))
    place = f"{problem.file}:{problem.line}: "
    text.stylize("dim", 0, len(place))
    text.stylize(style, len(place), len(place) + len(problem.key))
    return text


@click.command()
@cluster_argument("file", lambda: DEFAULT_FILE)
@click.option("--name", metavar="NAME", help="Name of the cluster.")
@click.option("--interface", metavar="NAME", help="Interface of this machine on the boards' network.")
@click.option("--subnet", metavar="CIDR", help="The boards' network, such as 192.168.86.0/24.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def init(file: Path, name: str | None, interface: str | None, subnet: str | None, force: bool) -> None:
    """Write a commented cluster.yaml to start from.

    Asks for the name and the network on a terminal; elsewhere it takes what it finds on this machine. The
    file passes 'bramble check' as it is, but holds a placeholder MAC that you replace by that of your board.

    \b
    bramble init
    bramble init attic.yaml --name attic --interface eth0 --subnet 192.168.86.0/24
    """
    if file.exists() and not force:
        raise InputError(
            f"{file} exists and was left as it is", "Name another file, or replace it with --force."
        )
    answers = _Questions(ask=is_terminal(), networks=read_host_networks())
    text = render_starter(answers.collect(name, interface, subnet))
    checked = check_text(text, file, loader_surroundings(file))
    if checked.spec is None:
        raise SpecErrors(checked.problems)
    _write(file, text)
    click.echo(f"{file} written. Put your boards in under 'nodes', then run 'bramble check {file}'.")


class _Questions:
    """Answers from options first, then from the user where there is one, then from this machine."""

    def __init__(self, *, ask: bool, networks: tuple[HostNetwork, ...]) -> None:
        self._ask = ask
        self._networks = networks

    def collect(self, name: str | None, interface: str | None, subnet: str | None) -> StarterValues:
        placeholder = StarterValues()
        chosen_name = self._answer(name, "Name of the cluster", placeholder.name, values.parse_label)
        first = self._networks[0].interface if self._networks else placeholder.interface
        if self._ask and interface is None and self._networks:
            for network in self._networks:
                click.echo(f"  {network.interface:<15} {network.subnet}")
        chosen_interface = self._answer(
            interface, "Interface on the boards' network", first, values.parse_interface
        )
        found = next((network for network in self._networks if network.interface == chosen_interface), None)
        usual = found.subnet if found and found.subnet.prefixlen <= 30 else placeholder.subnet
        chosen_subnet = self._answer(subnet, "Subnet of the boards", str(usual), values.parse_subnet)
        if found is not None and found.subnet == chosen_subnet:
            gateway = found.gateway
        else:
            gateway = placeholder.gateway if chosen_subnet == placeholder.subnet else None
        return StarterValues(
            name=chosen_name,
            interface=chosen_interface,
            subnet=chosen_subnet,
            gateway=gateway,
            ssh_key=_find_public_key(),
            timezone=_find_timezone() or placeholder.timezone,
        )

    def _answer(self, given: str | None, question: str, usual: str, parse: Callable[[str], T]) -> T:
        if given is not None or not self._ask:
            return parse(given if given is not None else usual)
        while True:
            try:
                return parse(click.prompt(question, default=usual))
            except FleetError as error:
                click.echo(str(error), err=True)


def _find_public_key() -> str | None:
    for name in ("id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub"):
        try:
            return values.parse_ssh_key((Path.home() / ".ssh" / name).read_text(encoding="utf-8").strip())
        except (OSError, RuntimeError, UnicodeDecodeError, FleetError):
            continue
    return None


def _find_timezone() -> str | None:
    """The zone that /etc/localtime links to, as systemd sets it."""
    try:
        target = Path("/etc/localtime").readlink()
    except OSError:
        return None
    return str(target).partition("zoneinfo/")[2] or None


def _write(file: Path, text: str) -> None:
    """Put the whole file in place at once, so that an interrupted run leaves the old one; make its folder."""
    fresh = file.with_name(f".{file.name}.new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(file)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise FleetError(
            f"{file} cannot be written: {error.strerror}", "Check the folder and its rights."
        ) from error
