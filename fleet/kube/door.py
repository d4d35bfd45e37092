"""The cluster's Kubernetes API, through whichever of its servers answers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import Final

from fleet.ground import Ground
from fleet.k3s.config import API_PORT
from fleet.k3s.manifests import access_objects, object_path
from fleet.k3s.material import ClientIdentity
from fleet.kube.client import KubeApi, KubeError, KubeNode, KubeRefusedError
from fleet.lifecycle import LEAVING, State
from fleet.spec.model import Role
from fleet.store.records import NodeRecord

log = logging.getLogger(__name__)

Connect = Callable[[str], AbstractAsyncContextManager[KubeApi]]
"""URL of an API server → a client for one conversation."""

ConnectAs = Callable[[str, ClientIdentity], AbstractAsyncContextManager[KubeApi]]
VIRTUAL_SILENCES: Final = 3
ROLE_GRACE_S: Final = 60.0
"""k3s applies its manifests seconds after it serves; a Pi that starts takes longer."""
_MAY_SERVE: Final = (
    State.READY,
    State.DEGRADED,
    *sorted(LEAVING),
    State.JOINING,
    State.FAILED_JOINING,
)


class KubeDoor:
    """Finds an API server. The default client presents the cluster's client certificate."""

    def __init__(
        self, ground: Ground, connect: Connect | None = None, *, connect_as: ConnectAs = KubeApi
    ) -> None:
        self._ground = ground
        self._connect = connect or self._connect_with_certificate
        self._connect_as = connect_as
        self._refused_since: float | None = None
        self._virtual_silences = VIRTUAL_SILENCES

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
            url = f"https://{address}:{API_PORT}"
            async with contextlib.AsyncExitStack() as stack:
                try:
                    api = await stack.enter_async_context(self._connect(url))
                    listing = await self._first_words(api, url)
                except KubeError as error:
                    log.debug("kubernetes does not answer", extra={"node": node.name, "cause": error.message})
                    reason = error
                    continue
                yield api, listing
                return
        raise reason

    async def virtual_url(self) -> str | None:
        """URL of the API's own address while it answers; one silence is a hiccup, several in a row are
        not."""
        address = self._ground.spec.k3s.api_vip
        if address is None:
            return None
        url = f"https://{address}:{API_PORT}"
        try:
            async with self._connect(url) as api:
                await api.nodes()
        except KubeError:
            self._virtual_silences += 1
        else:
            self._virtual_silences = 0
        return url if self._virtual_silences < VIRTUAL_SILENCES else None

    async def _first_words(self, api: KubeApi, url: str) -> dict[str, KubeNode]:
        """The list of nodes.

        A server that has just begun has not applied our role yet. A cluster that was founded without it, or
        in which somebody deleted it, is given it after a while, which takes an administrator's rights.
        """
        try:
            listing = await api.nodes()
        except KubeRefusedError as error:
            if error.status != HTTPStatus.FORBIDDEN:
                raise
            now = self._ground.clock()
            self._refused_since = now if self._refused_since is None else self._refused_since
            if now - self._refused_since < ROLE_GRACE_S:
                raise
            await self._grant_role(url, now)
            listing = await api.nodes()
        self._refused_since = None
        return listing

    async def renew_role(self, url: str) -> None:
        """Give the control server the rights of this release: an older one's founded the cluster with fewer.

        Raises:
            KubeError: The server does not answer.
        """
        await self._grant_role(url, self._ground.clock())

    async def _grant_role(self, url: str, now: float) -> None:
        try:
            async with self._connect_as(url, self._ground.k3s.admin_identity(now)) as admin:
                for item in access_objects():
                    await admin.put_object(*object_path(item), item)
        finally:
            self._ground.k3s.forget_admin()
        log.warning("the control server's role in the cluster was not this release's, and was put there")

    def _connect_with_certificate(self, url: str) -> KubeApi:
        return KubeApi(url, self._ground.k3s.client_identity(self._ground.clock()))


def _may_serve(node: NodeRecord) -> bool:
    return node.role is Role.SERVER and node.join_allowed and node.state in _MAY_SERVE
