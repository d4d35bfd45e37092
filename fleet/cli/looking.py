"""Where who only looks is answered from: also beside a cluster.yaml that cannot be used.

A server that runs has read the file when it was sound, and its record outlives it. So an error that somebody
makes in it while boards come up takes nobody's sight away, as long as the cluster's name can still be read.
Commands that change something want a sound file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import click

from fleet.admin_client import FleetReader
from fleet.cli.places import STORE_VARIABLE, record_place, state_directory, state_places, store_place
from fleet.errors import FleetError
from fleet.spec import SpecErrors, load_cluster
from fleet.spec.load import glimpse_cluster
from fleet.store.errors import NoRecordError
from fleet.store_place import Place


@dataclass(frozen=True, slots=True)
class View:
    """Who answers, and what is wrong with the file; None where nothing is."""

    reader: FleetReader
    fault: SpecErrors | None = None

    def warn(self) -> None:
        """Say on stderr what is wrong with the file, and that the answer is not from it."""
        if self.fault is not None:
            click.secho("warning: ", fg="yellow", bold=True, nl=False, err=True)
            click.echo(f"{self.fault.message}\n  {self.fault.hint} Shown is what the server knows.", err=True)


def view_of(file: Path) -> View:
    """Where to ask about the cluster of `file`, for a question that changes nothing.

    Raises:
        SpecErrors: The file cannot be used, and its cluster's name cannot be read or nothing is known of it.
        InputError: The file cannot be read.
    """
    try:
        spec = load_cluster(file)
    except SpecErrors as fault:
        seen = glimpse_cluster(file)
        if seen.name is None:
            fault.hint += " Its cluster's name cannot be read, so nobody knows whose record to show."
            raise
        reader = _reader(seen.name, record_place(seen.name, os.environ.get(STORE_VARIABLE) or seen.store))
        if not _is_known(reader):
            fault.hint += f" No record of cluster {seen.name!r} is here that could be shown meanwhile."
            raise
        return View(reader, fault)
    return View(_reader(spec.name, store_place(spec)))


def _reader(cluster: str, place: Place) -> FleetReader:
    return FleetReader(state_directory(cluster), place, state_places(cluster))


def _is_known(reader: FleetReader) -> bool:
    """Whether a server of it runs, or ever did."""
    try:
        reader.nodes()
    except NoRecordError:
        return False
    except FleetError:
        return True  # whoever asks is told
    return True
