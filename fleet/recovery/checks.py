"""May this snapshot be restored in this cluster, and on which server first? Pure."""

from __future__ import annotations

from collections.abc import Sequence

from fleet.k3s.versions import K3sVersion
from fleet.reimage.problems import Problem
from fleet.snapshots.manifest import SnapshotInfo
from fleet.spec.model import ClusterSpec


def snapshot_problems(info: SnapshotInfo, spec: ClusterSpec, ca_hash: str) -> Sequence[Problem]:
    """Why this snapshot is not this cluster's to restore. Pure."""
    found = []
    if info.cluster != spec.name or info.ca_hash != ca_hash:
        found.append(
            Problem(
                "other-cluster",
                f"snapshot {info.id} is of cluster {info.cluster!r} with CA {info.ca_hash[:12]}…, this is "
                f"{spec.name!r} with {ca_hash[:12]}…",
                "Restore the control server's backup that belongs to it first: 'bramble restore'.",
            )
        )
    taken, wanted = K3sVersion.find(info.k3s_version), K3sVersion.find(spec.k3s.version)
    if (
        taken is None
        or wanted is None
        or (taken.major, taken.minor) != (wanted.major, wanted.minor)
        or wanted.patch < taken.patch
    ):
        found.append(_other_version(info, spec))
    return found


def _other_version(info: SnapshotInfo, spec: ClusterSpec) -> Problem:
    return Problem(
        "version",
        f"snapshot {info.id} is of k3s {info.k3s_version}, cluster.yaml says {spec.k3s.version}",
        f"Set cluster.k3s.version to {info.k3s_version} and build the image; upgrade when the cluster is "
        "back.",
    )


def choose_founder(info: SnapshotInfo, spec: ClusterSpec) -> str | None:
    """A declared server that was not marked for removal; one that the snapshot knows, where there is one."""
    marked = set(info.removing or ())
    able = [node.name for node in spec.servers if node.name not in marked]
    known = [name for name in able if name in info.servers]
    return next(iter(known or able), None)


def founder_problems(name: str, info: SnapshotInfo, spec: ClusterSpec) -> Sequence[Problem]:
    """Why this server can not be the first one. Pure."""
    servers = [node.name for node in spec.servers]
    if name not in servers:
        return [
            Problem(
                "founder",
                f"{name or 'no server'} is no declared server that could begin",
                f"Name one of {', '.join(servers) or 'none'} with --founder.",
            )
        ]
    if name in (info.removing or ()):
        return [
            Problem(
                "founder",
                f"{name} was marked for removal when {info.id} was taken: restored there, k3s would take its "
                "own member out again",
                "Name another server with --founder.",
            )
        ]
    return []
