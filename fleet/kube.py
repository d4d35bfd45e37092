"""The little that Bramble asks of the Kubernetes API, over HTTPS with a client certificate.

Trusts exactly the cluster's server CA. One `KubeApi` per server; it owns its connections.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import aiohttp

from fleet.errors import FleetError
from fleet.k3s import ClientIdentity

TIMEOUT_S: Final = 5.0


class KubeError(FleetError):
    """The Kubernetes API did not answer, or not with what was asked."""


@dataclass(frozen=True, slots=True)
class KubeNode:
    """A Node object as far as Bramble reads it.

    Attributes:
        ready: The Ready condition is True.
        reason: Why not, in the kubelet's words; empty when ready.
        version: The kubelet's version, `v1.33.5+k3s1`.
    """

    name: str
    ready: bool
    reason: str
    version: str


class KubeApi:
    """One API server. Use as an async context manager."""

    def __init__(self, url: str, identity: ClientIdentity) -> None:
        self._url = url
        self._tls = _context(identity)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        connector = aiohttp.TCPConnector(ssl=self._tls)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def nodes(self) -> dict[str, KubeNode]:
        """All Node objects by name.

        Raises:
            KubeError: No answer, a refusal, or not a list of nodes.
        """
        listing = await self._get("/api/v1/nodes")
        try:
            return {node.name: node for node in map(parse_node, listing["items"])}
        except (KeyError, TypeError, AttributeError) as error:
            raise KubeError(f"{self._url} did not answer with a list of nodes") from error

    async def patch_node_status(self, name: str, patch: Mapping[str, Any]) -> None:
        """Merge into a Node's status; list entries go by their key, as the API's types say.

        Raises:
            KubeError: No answer, or a refusal.
        """
        if self._session is None:
            raise KubeError("the client is not open")
        url, kind = f"{self._url}/api/v1/nodes/{name}/status", "application/strategic-merge-patch+json"
        try:
            async with self._session.patch(url, json=patch, headers={"Content-Type": kind}) as response:
                if response.status != 200:
                    raise KubeError(f"{url} answered {response.status} to a patch")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise KubeError(f"{self._url} does not answer: {error or type(error).__name__}") from error

    async def _get(self, path: str) -> Any:
        if self._session is None:
            raise KubeError("the client is not open")
        try:
            async with self._session.get(self._url + path) as response:
                if response.status != 200:
                    raise KubeError(f"{self._url}{path} answered {response.status}")
                return await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise KubeError(f"{self._url} does not answer: {error or type(error).__name__}") from error


def parse_node(item: Mapping[str, Any]) -> KubeNode:
    """A Node object of the API.

    Raises:
        KeyError, TypeError, AttributeError: It is not one.
    """
    status = item.get("status", {})
    condition = next((entry for entry in status.get("conditions", []) if entry["type"] == "Ready"), None)
    ready = condition is not None and condition["status"] == "True"
    told = (
        "no Ready condition yet" if condition is None else condition.get("message") or condition.get("reason")
    )
    return KubeNode(
        name=item["metadata"]["name"],
        ready=ready,
        reason="" if ready else str(told or "no reason given"),
        version=str(status.get("nodeInfo", {}).get("kubeletVersion", "")),
    )


def _context(identity: ClientIdentity) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=identity.ca_pem)
    context.load_cert_chain(identity.certificate_path, identity.key_path)
    return context
