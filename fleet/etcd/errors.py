"""What can go wrong with etcd."""

from __future__ import annotations

from fleet.errors import FleetError


class EtcdError(FleetError):
    """etcd did not answer, or not with what was asked."""


class EtcdRefusedError(EtcdError):
    """etcd answered, and refused.

    Attributes:
        words: Its own words, `etcdserver: …`.
    """

    def __init__(self, message: str, words: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.words = words


class NotThisClusterError(EtcdError):
    """The etcd that answers is another cluster's than the one that was meant."""


class BadSnapshotError(EtcdError):
    """A snapshot that is cut off or damaged."""
