"""A cluster.yaml as a person writes it, the server started with it, and commands as a person types them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from fakes_fleet_server import Running, running

from fleet.spec import load_cluster

HEAD = """
version: 1
cluster: {name: attic, domain: attic.internal, k3s: {version: v1.33.5+k3s1}}
image:
  base: debian-trixie
  user: {name: pi, ssh_authorized_keys: []}
network: {interface: eth0, dhcp: full, subnet: 10.77.0.0/24, server_address: 10.77.0.1}
nodes:
"""


def node_line(name: str, number: int, *, role: str = "agent") -> str:
    """One node below `nodes:`; serial and address are those of `fakes_fleet.node_spec` with that number."""
    return (
        f"  - {{name: {name}, board: pi5, role: {role}, serial: 10000000abcd{number:04}, "
        f"address: 10.77.0.{10 + number}, disk: nvme}}\n"
    )


def write_cluster(directory: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cluster's file; commands look for its state in `state_of` it."""
    monkeypatch.setenv("BRAMBLE_STATE_DIR", str(directory / "state"))
    file = directory / "cluster.yaml"
    file.write_text(text)
    return file


def state_of(file: Path) -> Path:
    """The state directory of the cluster."""
    return file.parent / "state" / "attic"


@contextmanager
def serving(file: Path) -> Iterator[Running]:
    """A server of this cluster."""
    with running(state_of(file), load_cluster(file)) as server:
        yield server


def typed(command: click.Command, *arguments: object, answer: str | None = None) -> Result:
    """What the command says and does; `answer` is typed when it asks."""
    return CliRunner().invoke(command, [str(argument) for argument in arguments], input=answer)
