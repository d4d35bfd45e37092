"""The commands ``bramble image check`` and ``diff``: they parse, call one function, and print."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fleet.boards import BoardModel
from fleet.cli.names import NODE

if TYPE_CHECKING:
    from imagebuilder.preflight import Expected, Finding

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("file", type=_FILE)
@click.option("-c", "--cluster", type=_FILE, metavar="FILE", help="Compare with what this cluster wants.")
@click.option(
    "--node", type=NODE, metavar="NODE", help="Check for this node of the cluster: its board, its name."
)
@click.option("--board", metavar="MODEL", help="Check for this board (pi4, pi5, cm5, …) without a cluster.")
@click.option("--strict", is_flag=True, help="Count warnings as errors.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check(
    file: Path, cluster: Path | None, node: str | None, board: str | None, strict: bool, as_json: bool
) -> None:
    """Say what the raw disk image FILE would do at its first boot, before it is flashed.

    Replays the search for first-boot settings and names every setting that would be ignored, with the reason
    and the mend: seed files and cloud-init's datasource, YAML and schema, command line, memory cgroup,
    partition references, kernels, modules, units. Nothing is changed and nothing is started.

    Exits with 0 where nothing is wrong, and with 1 where there is an error (with --strict: or a warning).

    \b
    bramble image check node.img
    bramble image check node.img -c cluster.yaml --node pi5-master-1
    bramble image check raspios.img --board pi5 --json | jq '.findings[].message'
    """
    from imagebuilder.preflight import Severity, check_image, open_evidence

    models, expected = _wanted(cluster, node, board)
    with open_evidence(file, models, expected) as evidence:
        findings = check_image(evidence)
        dialect = evidence.facts.dialect.value
    failing = {Severity.ERROR, Severity.WARNING} if strict else {Severity.ERROR}
    failed = any(finding.severity in failing for finding in findings)
    if as_json:
        report = {
            "file": str(file),
            "dialect": dialect,
            "ok": not failed,
            "findings": [finding.to_json() for finding in findings],
        }
        click.echo(json.dumps(report, indent=1))
    else:
        _print(findings, file, dialect)
    if failed:
        sys.exit(1)


def _wanted(
    cluster: Path | None, node: str | None, board: str | None
) -> tuple[tuple[BoardModel, ...], Expected | None]:
    """The boards to check for, and what cluster.yaml wants."""
    from imagebuilder.preflight import Expected

    if board is not None and cluster is not None:
        raise click.UsageError("--board and --cluster exclude each other: cluster.yaml names the boards.")
    if node is not None and cluster is None:
        raise click.UsageError("--node needs the cluster that it belongs to: -c cluster.yaml")
    if cluster is None:
        return ((BoardModel.parse(board),) if board else tuple(BoardModel)), None
    from fleet.spec import load_cluster

    spec = load_cluster(cluster)
    nodes = [declared for declared in spec.nodes if node in (None, declared.name)]
    if not nodes:
        names = ", ".join(declared.name for declared in spec.nodes)
        raise click.UsageError(f"{cluster} declares no node {node!r}; it has: {names}")
    return tuple(dict.fromkeys(declared.board for declared in nodes)), Expected(
        user=spec.image.user.name,
        ssh_authorized_keys=spec.image.user.ssh_authorized_keys,
        timezone=spec.image.timezone,
        node=node,
        fqdn=spec.fqdn(nodes[0]) if node else None,
    )


def _print(findings: tuple[Finding, ...], file: Path, dialect: str) -> None:
    from imagebuilder.preflight import Severity

    colours = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
    for finding in findings:
        click.secho(f"{finding.severity.value:8}", fg=colours[finding.severity], nl=False)
        click.echo(f"{finding.place}: {finding.message}.")
        if finding.mend:
            click.echo(f"        {finding.mend}")
    counts = {kind: sum(finding.severity is kind for finding in findings) for kind in Severity}
    told = ", ".join(f"{count} {kind.value}{'s' * (count != 1)}" for kind, count in counts.items())
    click.echo(f"{file.name} ({dialect}): {told}")


@click.command()
@click.argument("one", type=_FILE, metavar="A")
@click.argument("other", type=_FILE, metavar="B")
@click.option("--brief", is_flag=True, help="Names of files only, without their lines.")
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
def diff(one: Path, other: Path, brief: bool, as_json: bool) -> None:
    """Say what the raw disk image B is that A is not.

    Partition table and filesystems, then every file of both partitions: added (+), removed (-), changed (~)
    with content, mode, owner, link target, hard links and extended attributes. Small text files, config.txt
    among them, are shown line by line, cmdline.txt word by word. The images are read as they are: no mount,
    no root.

    Exits with 0 where nothing differs, else with 1.

    \b
    bramble image diff raspios.img node.img
    bramble image diff a.img b.img --json | jq -r '.changes[].path'
    """
    from imagebuilder.cli import ProgressLine
    from imagebuilder.preflight.diff import Kind, compare_images

    with ProgressLine(show=not as_json) as line:
        difference = compare_images(one, other, progress=line.update)
    if as_json:
        click.echo(json.dumps(difference.to_json(), indent=1))
    else:
        for row in difference.disk:
            click.echo(f"disk ~ {row}")
        marks = {Kind.ADDED: "+", Kind.REMOVED: "-", Kind.CHANGED: "~"}
        for change in difference.changes:
            state = change.after or change.before
            told = ", ".join(change.details) or (state.summary if state else "")
            click.echo(f"{change.volume} {marks[change.kind]} {change.path}: {told}")
            for text in () if brief else change.text:
                click.echo(f"       {text}")
        counts = ", ".join(
            f"{sum(change.kind is kind for change in difference.changes)} {kind.value}" for kind in Kind
        )
        click.echo(f"files: {counts}")
    if not difference.is_empty:
        sys.exit(1)
