"""What which k3s release can do: one table, and the rule of version skew. Pure.

Nothing elsewhere asks for a version: it asks for a feature.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

_TAG = re.compile(r"v(\d+)\.(\d+)\.(\d+)(?:-[0-9A-Za-z.]+)?\+k3s(\d+)")


@dataclass(frozen=True, slots=True, order=True)
class K3sVersion:
    """A release, `v1.33.5+k3s1`; ordered as releases are."""

    major: int
    minor: int
    patch: int
    build: int

    @classmethod
    def find(cls, text: str) -> Self | None:
        """The first release that a text names, such as the output of `k3s --version`; None: it names none."""
        found = _TAG.search(text)
        return cls(*map(int, found.groups())) if found else None

    def __str__(self) -> str:
        return f"v{self.major}.{self.minor}.{self.patch}+k3s{self.build}"


class Feature(StrEnum):
    """What Bramble uses where it is there, and does without where it is not."""

    BOOTSTRAP_TOKENS = "bootstrap-tokens"
    """Agents join with a token that is a secret of the cluster and ends by itself."""
    TYPED_NODE_PASSWORDS = "typed-node-passwords"
    """Node password secrets have a type of their own; before they were Opaque."""
    TOKENLESS_AGENTS = "tokenless-agents"
    """An agent that joined once starts again without a token; before it refused to start."""
    POLICY_V1 = "policy-v1"
    """Evictions are of `policy/v1`; before of `policy/v1beta1`."""


_SINCE: Final[Mapping[Feature, tuple[tuple[int, int, int], ...]]] = {
    # k3s pull request 6663 and its backports.
    Feature.BOOTSTRAP_TOKENS: ((1, 23, 17), (1, 24, 11), (1, 25, 7), (1, 26, 2)),
    # The same pull request: an existing kubelet certificate is enough. v1.21.3 was seen to refuse.
    Feature.TOKENLESS_AGENTS: ((1, 23, 17), (1, 24, 11), (1, 25, 7), (1, 26, 2)),
    # k3s issues 13072 and 13088 and their backports (November 2025). A secret of the other type is accepted
    # all the same: the type decides which of them k3s's own sweeper looks after.
    Feature.TYPED_NODE_PASSWORDS: ((1, 31, 14), (1, 32, 10), (1, 33, 6), (1, 34, 2)),
    # Kubernetes documentation, "API-initiated Eviction".
    Feature.POLICY_V1: ((1, 22, 0),),
}
"""First patch release of each minor release that has it; later minor releases have it from the start."""


def has(version: K3sVersion | None, feature: Feature) -> bool:
    """Whether a release has a feature. An unknown release is taken for one that has none."""
    return version is not None and is_since(version, _SINCE[feature])


def is_since(version: K3sVersion, first: Sequence[tuple[int, int, int]]) -> bool:
    """Whether a release has what came with these: the first patch release of each minor release, in order."""
    for major, minor, patch in first:
        if (version.major, version.minor) == (major, minor):
            return version.patch >= patch
    return (version.major, version.minor) > first[-1][:2]


def skew_between(joining: K3sVersion, servers: Iterable[K3sVersion], *, is_server: bool) -> str | None:
    """Why a node of this version may not join servers of those; None: it may.

    An agent may be up to three minor releases older than the oldest server, never newer. A server that
    joins may differ by one minor release, and is at least as new as the others: etcd and the API are
    upgraded server by server, without a release left out.

    Source: Kubernetes "Version Skew Policy"; k3s documentation, "Upgrades".
    """
    running = sorted(servers)
    if not running:
        return None
    oldest, newest = running[0], running[-1]
    if joining.major != newest.major:
        return f"{joining} and the servers' {newest} are of different major releases"
    if not is_server:
        if (joining.minor, joining.patch) > (oldest.minor, oldest.patch):
            return f"its k3s {joining} is newer than the server's {oldest}: servers are upgraded first"
        if joining.minor < newest.minor - 3:
            return f"its k3s {joining} is more than three minor releases older than the server's {newest}"
        return None
    if joining.minor > oldest.minor + 1:
        return f"its k3s {joining} leaves out a minor release after the server's {oldest}"
    if joining.minor < newest.minor:
        return f"its k3s {joining} is older than the server's {newest}: a server never goes back"
    return None
