"""Which server a node is told to join, and to find again after a restart. Pure.

k3s keeps `server:` for the life of a node: where it points to a machine that is gone, an agent that starts
afresh and a server without etcd data find nobody. So it is chosen here, again whenever servers come and go.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerSeen:
    """A declared server of the cluster, and whether it can be joined now."""

    name: str
    url: str
    up: bool


def choose_server(
    node: str, current: str | None, servers: Sequence[ServerSeen], virtual: str | None = None
) -> str | None:
    """The URL for the node's `server:`; None: there is no other server, it stands by itself.

    The one that it has is kept for as long as it can be. Nodes are spread over the servers by their names.

    Args:
        current: What the node was told last.
        virtual: The URL of the API's own address, where that answers: it outlives every single server.
    """
    others = [server for server in servers if server.name != node]
    up = sorted((server for server in others if server.up), key=lambda server: server.name)
    if virtual is not None and up:
        return virtual
    if any(server.url == current for server in up):
        return current
    if up:
        return up[zlib.crc32(node.encode()) % len(up)].url
    # Nobody better is known: a server that is away may come back, one that is not declared any more will not.
    return current if any(server.url == current for server in others) else None
