"""`bramble image prove`, and `bramble build --prove`: nothing is handed on that did not boot once."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bramble.sized_commands import build as plain_build
from bramble.verdict import Outcome
from fleet.boards import BoardModel
from fleet.cli.names import NODE
from lab.events import BoardEvent, EventKind
from lab.qemu import MachineKind

if TYPE_CHECKING:
    from bramble.prove import Proof

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_MACHINE = click.Choice([kind.value for kind in MachineKind])
_QUIET = frozenset({EventKind.FILE_FETCHED, EventKind.FILE_MISSING})


@click.command(name="prove")
@click.argument("file", type=_FILE)
@click.option("-c", "--cluster", type=_FILE, default=None, metavar="FILE", help="The node's cluster.")
@click.option(
    "--node",
    "name",
    type=NODE,
    metavar="NODE",
    help="Prove the image for this node: its board, its settings.",
)
@click.option("--board", metavar="MODEL", help="Without a cluster: that the image boots on this board.")
@click.option(
    "--machine",
    type=_MACHINE,
    default=MachineKind.VIRT.value,
    show_default=True,
    help="QEMU's machine. raspi4b uses the image's own device tree; it is slower and a Pi 4 only.",
)
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=10), metavar="SECONDS", help="Give up after."
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep disk and console there.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
def prove(
    file: Path,
    cluster: Path | None,
    name: str | None,
    board: str | None,
    machine: str,
    timeout_s: float | None,
    keep: Path | None,
    as_json: bool,
) -> None:
    """Boot the raw disk image FILE on a virtual board, to the end of its first boot, and judge.

    The image is copied; FILE is not written to. Its bootloader is emulated, its kernel and system run in
    QEMU, and a witness in memory reports what became of user, keys, host name, time zone, network, units,
    agent and k3s. With --node these are held against cluster.yaml. The board's port reaches nobody. What is
    not shown is that the vendor's kernel drives real hardware.

    Exits with 0 where it is proven, else with 1.

    \b
    bramble image prove raspios.img --board pi4
    bramble image prove node.img -c cluster.yaml --node pi4-worker-1
    bramble image prove node.img -c cluster.yaml --node pi4-worker-1 --machine raspi4b
    """
    from bramble import prove as proving
    from bramble.node_images import require_node
    from bramble.proof_request import request_for_board, request_for_node
    from fleet.spec import load_cluster

    kind = MachineKind(machine)
    if (name is None) == (board is None):
        raise click.UsageError("Give one of --node (with -c) and --board.")
    if board is not None:
        request = request_for_board(file, BoardModel.parse(board), machine=kind, timeout_s=timeout_s)
    else:
        if cluster is None:
            raise click.UsageError("--node needs the cluster that it belongs to: -c cluster.yaml")
        spec = load_cluster(cluster)
        node = require_node(spec, name or "")
        request = request_for_node(file, spec, node, machine=kind, timeout_s=timeout_s)
    proof = proving.prove(request, work=keep, on_event=None if as_json else _show)
    if as_json:
        click.echo(json.dumps(proof.to_json(), indent=1))
    else:
        print_proof(proof, file.name)
    if not proof.proven:
        sys.exit(1)


def print_proof(proof: Proof, what: str) -> None:
    """The verdict for a person, on stdout."""
    colours = {Outcome.OK: "green", Outcome.FAILED: "red", Outcome.TOLD: "cyan"}
    for line in proof.lines:
        click.secho(f"{line.outcome.value:7}", fg=colours[line.outcome], nl=False)
        click.echo(f"{line.what}: {line.text}")
    for complaint in proof.complaints:
        click.echo(f"console {complaint}")
    boots = f"{proof.boots} boot{'s' * (proof.boots != 1)}, {proof.seconds:.0f} s"
    if proof.proven:
        click.secho(f"proven: {what} ({boots})", fg="green", bold=True)
        return
    click.secho(f"not proven: {what} ({boots}): {proof.reason}", fg="red", bold=True)
    if not proof.lines and proof.console:
        click.echo("The console's last lines:")
        click.echo(proof.console)


def _show(event: BoardEvent) -> None:
    if event.kind not in _QUIET:
        click.echo(f"  {event.kind}: {event.text}", err=True)


def _build(prove_it: bool, node_name: str | None, **arguments: Any) -> None:
    """`bramble build`, then the proof of one node."""
    if node_name is not None and not prove_it:
        raise click.UsageError("--prove-node says which node to prove; it needs --prove.")
    if plain_build.callback is None:
        raise RuntimeError("bramble build has no callback")
    plain_build.callback(**arguments)
    if prove_it:
        _prove_build(arguments["file"], arguments["release"], node_name)


def _prove_build(cluster: Path, release: Path | None, name: str | None) -> None:
    from bramble import prove as proving
    from bramble.node_images import require_node
    from bramble.paths import store
    from bramble.proof_request import request_for_node
    from bramble.proofs import is_proven, record_proof
    from fleet.spec import load_cluster
    from imagebuilder.cli import ProgressLine, build_shown

    spec = load_cluster(cluster)
    if release is not None:
        spec = replace(spec, k3s=replace(spec.k3s, source=release.resolve()))
    with ProgressLine(show=True) as line:
        image = build_shown(spec, line)
    if name is None and is_proven(store(), image.id):
        click.echo("proof      was proven before", err=True)
        return
    node = require_node(spec, name) if name is not None else spec.nodes[0]
    request = request_for_node(image.disk, spec, node, machine=MachineKind.VIRT, timeout_s=None)
    proof = proving.prove(request, on_event=_show)
    # On stderr: with --json, stdout holds one document.
    click.echo(f"proof      {'proven' if proof.proven else proof.reason} ({proof.seconds:.0f} s)", err=True)
    if not proof.proven:
        print_proof(proof, f"{node.name} of {image.id[:12]}")
        sys.exit(1)
    record_proof(store(), image.id, node.name, proof.seconds)


def _with_proof(command: click.Command) -> click.Command:
    """The builder's command with the option that needs the lab, which the builder does not know."""
    extended = copy.copy(command)
    extended.params = [
        *command.params,
        click.Option(
            ["--prove", "prove_it"],
            is_flag=True,
            help="Boot the image on a virtual board before it counts as good; exits with 1 where it fails.",
        ),
        click.Option(
            ["--prove-node", "node_name"],
            type=NODE,
            metavar="NODE",
            help="With --prove: as this node, not the first.",
        ),
    ]
    extended.callback = _build
    return extended


build = _with_proof(plain_build)
