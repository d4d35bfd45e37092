"""`python -m benchmarks`: measure, print the tables, and put them into the page where that is asked for."""

from __future__ import annotations

import datetime
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import click

from benchmarks import machine
from benchmarks.bench import Bench
from benchmarks.cases import (
    agent_cost,
    control,
    dashboard,
    dhcp,
    etcd,
    flash,
    http,
    image_build,
    image_pipeline,
    installer,
    join,
    memory,
    node_delta,
    notfound,
    reimage,
    storm,
    tftp,
)
from benchmarks.errors import BenchmarkError, NotPossible
from benchmarks.measure import Better, Row, Table
from benchmarks.programs import Programs
from benchmarks.report import Heading, render_run, replace_section
from imagebuilder.errors import ImageBuilderError
from imagebuilder.store import Store

ROUNDS: Final = 5

Case = Callable[[Bench], Table | list[Table]]

CASES: Final[dict[str, Case]] = {
    # The first ones run in the machine's own network; from "tftp" on the process is in a private one.
    "delta": node_delta.run,
    "build": image_build.run,
    "cached": image_build.run_cached,
    "pipeline": image_pipeline.run,
    "flash": flash.run,
    "agent": agent_cost.run,
    "join": join.run,
    "control": control.run,
    "dashboard": dashboard.run,
    "etcd": etcd.run,
    "tftp": tftp.run,
    "notfound": notfound.run,
    "storm": storm.run,
    "storm-large": storm.run_large,
    "http": http.run,
    "installer": installer.run,
    "dhcp": dhcp.run,
    "memory": memory.run,
    "reimage": reimage.run,
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--only", multiple=True, type=click.Choice(list(CASES)), help="Run only this case; may be repeated."
)
@click.option(
    "--peers",
    type=click.Path(path_type=Path, file_okay=False, exists=True, resolve_path=True),
    help="A tree with peers that are not installed, as 'dpkg-deb -x' unpacks them.",
)
@click.option(
    "--store",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="BRAMBLE_CACHE_DIR",
    help="The store with the base. Default: that of 'bramble build'.",
)
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Where temporary files go, some GB of them. Default: the system's directory.",
)
@click.option(
    "--update",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Write the tables between the two markers of this page.",
)
@click.option(
    "--trial", is_flag=True, help="One round with small inputs, to see that it works. Not a measurement."
)
def main(
    only: tuple[str, ...],
    peers: Path | None,
    store: Path | None,
    work: Path | None,
    update: Path | None,
    trial: bool,
) -> None:
    """Measure Bramble beside its peers on this machine."""
    if trial and update is not None:
        raise click.UsageError("--trial makes no figures that belong into a page; leave --update out.")
    programs = Programs(peers)
    rounds = 1 if trial else ROUNDS
    machine_text, kernel, load = (
        machine.describe_machine(),
        machine.describe_kernel(),
        machine.describe_load(),
    )
    with tempfile.TemporaryDirectory(prefix="bramble-bench-", dir=work) as directory:
        bench = Bench(
            store=Store.default() if store is None else Store(store.absolute()),
            work=Path(directory),
            programs=programs,
            rounds=rounds,
            trial=trial,
        )
        tables = [
            table
            for name, case in CASES.items()
            if not only or name in only
            for table in _run(name, case, bench)
        ]
    heading = Heading(
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        machine=machine_text,
        kernel=kernel,
        load=load,
        rounds=rounds,
        versions={**machine.own_versions(), **machine.program_versions(programs.used.values())},
        trial=trial,
    )
    section = render_run(heading, tables)
    click.echo(section)
    if update is not None:
        update.write_text(replace_section(update.read_text("utf-8"), section), "utf-8")


def _run(name: str, case: Case, bench: Bench) -> Sequence[Table]:
    """One case; what this machine can not run becomes a table that says why."""
    click.echo(f"measuring: {name}", err=True)
    try:
        tables = case(bench)
    except NotPossible as exc:
        row = Row(name="bramble", note=str(exc))
        return [Table(title=name, unit="–", better=Better.LOWER, work="Not measured.", rows=(row,))]
    return tables if isinstance(tables, list) else [tables]


if __name__ == "__main__":
    try:
        main(standalone_mode=True)
    except (BenchmarkError, ImageBuilderError) as error:
        click.echo(f"error: {error.message}\n  {error.hint}", err=True)
        sys.exit(1)
