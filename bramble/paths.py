"""Where things are on this machine. Only commands ask; everything below them is handed its paths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fleet.cli.places import DATABASE, STATE_VARIABLE, state_directory, store_place
from fleet.errors import FleetError
from fleet.spec.model import ClusterSpec
from fleet.store_place import Place, PostgresPlace
from imagebuilder.cli import MIRROR_VARIABLE, agent_package, apt_access, store

__all__ = [
    "MIRROR_VARIABLE",
    "STATE_VARIABLE",
    "StateLayout",
    "agent_package",
    "apt_access",
    "make_private",
    "state_layout",
    "store",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StateLayout:
    """Files of one cluster's control server; the directory is its owner's alone.

    `postgres` is the database of its record, where that is not the directory's own file.
    """

    directory: Path
    postgres: PostgresPlace | None = None

    @property
    def database(self) -> Place:
        return self.postgres or self.directory / DATABASE

    @property
    def socket(self) -> Path:
        return self.directory / "control.sock"

    @property
    def boot_images(self) -> Path:
        """Boot images of nodes, `bramble.boot_images`."""
        return self.directory / "boot-images"

    @property
    def k3s(self) -> Path:
        return self.directory / "k3s"


def state_layout(spec: ClusterSpec, store: str | None = None) -> StateLayout:
    """A cluster's state, where the commands that read it look for it.

    Args:
        store: A PostgreSQL URL that goes before $BRAMBLE_STORE and cluster.yaml.
    """
    place = store_place(spec, store)
    postgres = place if isinstance(place, PostgresPlace) else None
    return StateLayout(directory=state_directory(spec.name), postgres=postgres)


def make_private(directory: Path) -> None:
    """Make the state directory, for its owner's eyes only.

    Raises:
        FleetError: it can not be made.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise FleetError(
            f"{directory}: the server's state can not be kept there: {error.strerror}",
            f"Make the directory writable, or name another one in ${STATE_VARIABLE}.",
        ) from error
