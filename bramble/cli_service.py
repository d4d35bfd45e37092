"""`bramble service`: the server as a service that starts with the machine."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import sys
from pathlib import Path

import click

from bramble.service import install as installing
from bramble.service.unit import BUILD_UNIT, CLUSTER, STATE, UNIT, USER, ServiceSpec
from fleet.cli.groups import HelpfulGroup
from fleet.cli.names import cluster_argument
from fleet.cli.questions import require_yes
from fleet.errors import InputError

NOT_RUNNING = 1


@click.group(cls=HelpfulGroup)
def service() -> None:
    """Run 'bramble serve' as a service of systemd: own user, two capabilities, sandboxed.

    Its log is the journal's: 'journalctl -u bramble'. The other commands find its state by themselves and
    want root for that: 'sudo bramble status'. The Debian package brings the same service along.
    """


@service.command("install")
@cluster_argument("file", lambda: CLUSTER)
@click.option("--dry-run", is_flag=True, help="Print the units and the commands, and change nothing.")
@click.option("--no-start", is_flag=True, help="Enable it, and leave it to the next boot.")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Only write the units, below this directory: for images and packages.",
)
def install(file: Path, dry_run: bool, no_start: bool, root: Path | None) -> None:
    """Install the service for the cluster of FILE, and start it.

    Run it again after an upgrade from another place, or for another FILE: the units are written anew, and the
    service is restarted with them.

    \b
    sudo bramble service install
    sudo bramble service install /srv/attic/cluster.yaml --no-start
    bramble service install --dry-run | less
    """
    program = installing.find_program(sys.executable)
    spec = ServiceSpec(program=program, cluster=file.absolute())
    plan = installing.plan_installation(spec, start=not no_start, user_exists=_has_user())
    wrong = installing.problems(spec, is_root=os.geteuid() == 0) if root is None else []
    if dry_run:
        for path, text in plan.files.items():
            click.echo(f"# {path}\n{text}")
        for argv in plan.commands:
            click.echo(f"$ {shlex.join(argv)}")
        for problem in wrong:
            click.echo(f"note: {problem}", err=True)
        return
    if wrong:
        raise InputError("; ".join(wrong), "'bramble service install --dry-run' shows what would be done.")
    installing.install(plan, root=root or Path("/"))
    click.echo(f"{UNIT} installed for {spec.cluster}; 'bramble service status' tells how it fares")
    if not no_start and root is None:
        click.echo(f"after a change of image or packages: systemctl start {BUILD_UNIT}")


@service.command("uninstall")
@click.option("--yes", is_flag=True, help="Do not ask.")
def uninstall(yes: bool) -> None:
    """Stop the service and remove its units. cluster.yaml, state and cache stay.

    \b
    sudo bramble service uninstall
    """
    if not installing.installed():
        click.echo("there is no service here")
    else:
        require_yes("Stop Bramble's server and remove its service?", yes=yes)
        installing.uninstall()
        click.echo("removed")
    for path in installing.kept():
        click.echo(f"kept {path}" + (": the cluster's keys are in it" if path == STATE else ""))


@service.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.pass_context
def status(context: click.Context, as_json: bool) -> None:
    """Say how the service fares. Exits with 0 where it runs, else with 1.

    Whether the cluster is all right is another question: 'bramble status'.

    \b
    bramble service status
    """
    said = installing.status()
    if as_json:
        click.echo(json.dumps(said, indent=2))
    elif not said["installed"]:
        click.echo("not installed: 'sudo bramble service install'")
    else:
        click.echo(f"{UNIT}: {said['state']} since {said['since'] or 'never'}")
        click.echo(f"starts with the machine: {'yes' if said['enabled'] else 'no'}")
        click.echo(f"restarts: {said['restarts']}, memory: {said['memory_bytes'] >> 20} MiB")
        if said["says"]:
            click.echo(f"says: {said['says']}")
        if said["result"] not in ("", "success"):
            click.echo(f"ended with {said['result']}: 'journalctl -u bramble -n 50' tells why")
    context.exit(0 if said["running"] else NOT_RUNNING)


def _has_user() -> bool:
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return False
    return True
