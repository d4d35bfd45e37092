"""`bramble doctor`: why do boards not boot?"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import click
from rich.console import Console

from bramble.doctor.board import read_report
from bramble.doctor.checks import run_checks
from bramble.doctor.facts import Wanted
from bramble.doctor.gather import bounce_link as gather_link_delay
from bramble.doctor.gather import gather
from bramble.doctor.render import render_board, render_checks
from bramble.doctor.report import as_json as checks_as_json
from bramble.doctor.report import exit_code
from bramble.paths import state_layout, store
from fleet.cli.names import cluster_file
from fleet.cli.nodes import fleet_reader
from fleet.cli.questions import require_yes
from fleet.spec import load_cluster
from fleet.spec.model import ClusterSpec
from pxe.diagnosis.catalogue import RULES

LISTEN_S = 5.0


@click.command()
@cluster_file
@click.option("--board", metavar="NAME|SERIAL|MAC", help="Say what was found about one board instead.")
@click.option("--interface", metavar="NAME", help="Look at this interface; needs no cluster.yaml.")
@click.option(
    "--listen",
    "listen_s",
    type=click.FloatRange(0, 60),
    default=LISTEN_S,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for answers of DHCP servers; 0 asks nobody.",
)
@click.option(
    "--bounce-link",
    is_flag=True,
    help="Switch the interface off and on, and measure how long its port is silent (spanning tree).",
)
@click.option("--yes", is_flag=True, help="Do not ask before --bounce-link.")
@click.option("--rules", is_flag=True, help="List the problems of boards that are recognised.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def doctor(
    file: Path,
    board: str | None,
    interface: str | None,
    listen_s: float,
    bounce_link: bool,
    yes: bool,
    rules: bool,
    as_json: bool,
) -> None:
    """Check this machine and its network, or say why one board does not boot.

    Looks at the interface, the ports, the firewall, other DHCP servers, spanning tree, the clock, the disk
    and the running server; changes nothing but with --bounce-link. It asks the network's DHCP servers for
    offers and takes none. What needs root says so. Exits with 1 where something fails.

    \b
    sudo bramble doctor
    bramble doctor --board pi5-master-1
    bramble doctor --board d03114aa --json
    sudo bramble doctor --interface eth0 --listen 10
    """
    if rules:
        _print_rules(as_json)
        return
    spec = None if interface is not None and not file.exists() else load_cluster(file)
    if board is not None:
        if spec is None:
            raise click.UsageError("--board needs the cluster.yaml whose server saw the board.")
        _print_board(spec, board, as_json)
        return
    state = state_layout(spec).directory if spec is not None else None
    wanted = _wanted(spec, interface)
    if bounce_link:
        question = f"{wanted.interface} will be off for a moment; connections over it may break. Go on?"
        require_yes(question, yes=yes)
    delay = gather_link_delay(wanted.interface) if bounce_link else None
    facts = replace(gather(wanted, state, store().root, listen_s), link_delay=delay)
    checks = run_checks(facts)
    if as_json:
        click.echo(json.dumps(checks_as_json(checks), indent=2))
    else:
        Console().print(render_checks(checks), soft_wrap=True)
    click.get_current_context().exit(exit_code(checks))


def _wanted(spec: ClusterSpec | None, interface: str | None) -> Wanted:
    if spec is None:
        return Wanted(interface=interface or "")
    network = spec.network
    return Wanted(
        interface=interface or network.interface,
        dhcp=network.dhcp,
        subnet=network.subnet,
        server_address=network.server_address,
        http_port=network.ports.http,
        control_port=network.ports.control,
    )


def _print_board(spec: ClusterSpec, board: str, as_json: bool) -> None:
    report = read_report(fleet_reader(spec).timeline(board))
    if as_json:
        click.echo(json.dumps(asdict(report), indent=2))
    else:
        Console().print(render_board(report, time.time()), soft_wrap=True)
    click.get_current_context().exit(int(report.is_ill))


def _print_rules(as_json: bool) -> None:
    if as_json:
        rules = [{"rule": rule.id, "severity": rule.severity.value, "title": rule.title} for rule in RULES]
        click.echo(json.dumps(rules, indent=2))
        return
    for rule in RULES:
        click.echo(f"{rule.id:<24}{rule.severity.value:<9}{rule.title}")
