"""The release of the agent that this installation carries: what it would put into an image."""

from __future__ import annotations

from pathlib import Path

import agent
from fleet.updates.desk import Archive
from imagebuilder.steps.agent import pack_agent


def pack_release() -> Archive:
    """The same bytes as in an image of the same installation."""
    return Archive(agent.__version__, pack_agent(Path(agent.__file__).parent))
