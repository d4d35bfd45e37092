"""Where things are on this machine. Only commands ask; everything below them is handed its paths."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs

import agent

STATE_VARIABLE: Final = "BRAMBLE_STATE_DIR"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateLayout:
    """Files of one cluster's control server; the directory is its owner's alone."""

    directory: Path

    @property
    def database(self) -> Path:
        return self.directory / "control.db"

    @property
    def socket(self) -> Path:
        return self.directory / "control.sock"

    @property
    def k3s(self) -> Path:
        return self.directory / "k3s"


def state_layout(cluster: str) -> StateLayout:
    """A cluster's state, in $BRAMBLE_STATE_DIR or the user's state directory (`~/.local/state/bramble`)."""
    root = os.environ.get(STATE_VARIABLE)
    return StateLayout(directory=(Path(root) if root else platformdirs.user_state_path("bramble")) / cluster)


def agent_package() -> Path:
    """The agent's package directory, which the builder packs into images."""
    return Path(agent.__file__).parent
