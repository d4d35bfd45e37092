"""What can be ordered of an installed node, and how it can end."""

from __future__ import annotations

from enum import StrEnum


class ReimageKind(StrEnum):
    """What is wanted."""

    REIMAGE = "reimage"
    """The same board is installed again."""
    REPLACE = "replace"
    """Another board takes the node's name and place."""
    DECOMMISSION = "decommission"
    """The node leaves the cluster and is not answered again until it is declared anew."""


class Outcome(StrEnum):
    """How an order ended."""

    DONE = "done"
    CANCELLED = "cancelled"
    """A person called it off, and the node is what it was."""
    FAILED = "failed"
    """A step failed before anything was removed, and the node is what it was."""
    ABANDONED = "abandoned"
    """It ended after something was removed, short of its aim: a person goes on by other means."""
