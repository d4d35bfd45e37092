"""The node as the service finds it: where its files are, how commands run, its image and its release."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from agent import clock
from agent.commands import Runner
from agent.commands import run as run_command
from agent.hardware import ROOT, read_text
from agent.ring import Ring

MIN_INTERVAL_S = 1.0
RELEASE_VARIABLE = "BRAMBLE_RELEASE"
"""Set by the launcher: the digest of the release that it started."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Host:
    """The node as the service finds it; tests give another root and other commands."""

    root: Path = ROOT
    run: Runner = run_command
    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    set_clock: Callable[[float], None] = clock.set_clock
    min_interval_s: float = MIN_INTERVAL_S
    release: str = ""
    """SHA-256 of the zipapp that this process runs from."""
    ring: Ring = dataclasses.field(default_factory=Ring)
    """What the agent logged last."""

    @property
    def node_file(self) -> Path:
        return self.root / "etc/bramble/node.json"

    @property
    def state_directory(self) -> Path:
        return self.root / "var/lib/bramble"


def read_image_id(root: Path) -> str | None:
    """Of the image that this node runs; None where its file is missing or damaged."""
    try:
        value = json.loads(read_text(root / "etc/bramble/image.json") or "{}")
    except ValueError:
        return None
    image_id = value.get("image_id") if isinstance(value, dict) else None
    return image_id if isinstance(image_id, str) else None


def own_digest() -> str:
    """Of the zipapp that Python was started with; empty for anything else."""
    program = Path(sys.argv[0])
    return hashlib.sha256(program.read_bytes()).hexdigest() if program.suffix == ".pyz" else ""
