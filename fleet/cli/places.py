"""Where commands find a cluster's state and its record: options, environment, cluster.yaml, defaults.

Without what commands need to print: the server, which runs for months, reads this too.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Final

import platformdirs

from fleet.spec.model import ClusterSpec
from fleet.store_place import Place, parse_postgres

STATE_VARIABLE: Final = "BRAMBLE_STATE_DIR"
STORE_VARIABLE: Final = "BRAMBLE_STORE"
SERVICE_STATE: Final = Path("/var/lib/bramble")
DATABASE: Final = "control.db"
"""The store's file in the state directory, where it is no PostgreSQL database."""


def state_directory(cluster: str) -> Path:
    """A cluster's state directory, the first that there is of `state_places`; the first of all where there
    is none yet."""
    places = state_places(cluster)
    # One that only its owner may look into is taken, too: what fails there says whose it is.
    closed = SERVICE_STATE.is_dir() and not os.access(SERVICE_STATE, os.X_OK)
    for place in places:
        if os.path.exists(place) or (closed and place == SERVICE_STATE / cluster):  # noqa: PTH110 - Path.exists raises where a directory is closed
            return place
    return places[0]


def state_places(cluster: str) -> tuple[Path, ...]:
    """Where a cluster's state may be, in this order: below $BRAMBLE_STATE_DIR and nowhere else; in the user's
    state directory; where the service of this machine (`bramble service`) has it; with sudo, in the state
    directory of who called it.

    The last one, because a server that runs in a checkout (`scripts/serve`) is asked with sudo as well, and
    because a `sudo bramble serve` that found nothing would make a second cluster of the same name, with other
    keys. What root writes there is the caller's (`fleet.files`).
    """
    root = os.environ.get(STATE_VARIABLE)
    if root:
        return (Path(root) / cluster,)
    caller = os.environ.get("SUDO_USER") if os.geteuid() == 0 else None
    own = platformdirs.user_state_path("bramble") / cluster
    return own, SERVICE_STATE / cluster, *(_state_of(caller, cluster) if caller else ())


def _state_of(user: str, cluster: str) -> tuple[Path, ...]:
    try:
        home = pwd.getpwnam(user).pw_dir
    except KeyError:
        return ()
    return (Path(home) / ".local" / "state" / "bramble" / cluster,)


def store_place(spec: ClusterSpec, store: str | None = None) -> Place:
    """Where a cluster's record is: `store` (an option), else $BRAMBLE_STORE, else what cluster.yaml says.

    Raises:
        PlaceError: It is no PostgreSQL URL, or holds a password.
    """
    return record_place(spec.name, store or os.environ.get(STORE_VARIABLE) or spec.control.store)


def record_place(cluster: str, url: str | None) -> Place:
    """Where the record of a cluster of that name is: at `url`, else in its state directory.

    Raises:
        PlaceError: It is no PostgreSQL URL, or holds a password.
    """
    return parse_postgres(url) if url else state_directory(cluster) / DATABASE
