"""The cluster's Kubernetes API, through whichever of its servers answers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from fleet.ground import Ground
from fleet.k3s_config import API_PORT
from fleet.kube import KubeApi, KubeError, KubeNode
from fleet.lifecycle import State
from fleet.spec.model import Role
from fleet.store.records import NodeRecord

log = logging.getLogger(__name__)

Connect = Callable[[str], AbstractAsyncContextManager[KubeApi]]
"""URL of an API server → a client for one conversation."""

_MAY_SERVE: Final = (State.READY, State.DEGRADED, State.JOINING, State.FAILED_JOINING)


class KubeDoor:
    """Finds an API server. The default client presents the cluster's client certificate."""

    def __init__(self, ground: Ground, connect: Connect | None = None) -> None:
        self._ground = ground
        self._connect = connect or self._connect_with_certificate

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[KubeApi, dict[str, KubeNode]]]:
        """A client of the first server that answers, and the nodes that it lists.

        Raises:
            KubeError: None answers; the text has the last one's reason.
        """
        with self._ground.store.read() as reader:
            records = reader.nodes()
        reason = KubeError("no server of the cluster has a known address and may serve its API")
        for node in sorted(filter(_may_serve, records), key=lambda record: _MAY_SERVE.index(record.state)):
            address = self._ground.address_of(node)
            if address is None:
                continue
            async with contextlib.AsyncExitStack() as stack:
                try:
                    api = await stack.enter_async_context(self._connect(f"https://{address}:{API_PORT}"))
                    listing = await api.nodes()
                except KubeError as error:
                    log.debug("kubernetes does not answer", extra={"node": node.name, "cause": error.message})
                    reason = error
                    continue
                yield api, listing
                return
        raise reason

    def _connect_with_certificate(self, url: str) -> KubeApi:
        return KubeApi(url, self._ground.k3s.client_identity(self._ground.clock()))


def _may_serve(node: NodeRecord) -> bool:
    return node.role is Role.SERVER and node.join_allowed and node.state in _MAY_SERVE
