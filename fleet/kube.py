"""The little that Bramble asks of the Kubernetes API, over HTTPS with a client certificate.

Trusts exactly the cluster's server CA. One `KubeApi` per server; it owns its connections. How the answers
are read is in `fleet.kube_objects`.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import aiohttp

from fleet.errors import FleetError
from fleet.join_secrets import NAMESPACE, OWNER, OWNER_LABEL, TOKEN_TYPE
from fleet.k3s import ClientIdentity
from fleet.kube_objects import KubeNode, parse_node

__all__ = ["KubeApi", "KubeError", "KubeNode", "KubeRefusedError", "parse_node"]

TIMEOUT_S: Final = 5.0
_SECRETS: Final = f"/api/v1/namespaces/{NAMESPACE}/secrets"
_MERGE_PATCH: Final = "application/merge-patch+json"
_STRATEGIC_PATCH: Final = "application/strategic-merge-patch+json"


class KubeError(FleetError):
    """The Kubernetes API did not answer, or not with what was asked."""


class KubeRefusedError(KubeError):
    """The Kubernetes API answered, and refused.

    Attributes:
        status: HTTP status: 403 no right, 404 not there, 409 conflict, 429 later, 5xx a fault of its own.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


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

    async def patch_node(self, name: str, patch: Mapping[str, Any]) -> None:
        """Change a Node object (JSON merge patch, RFC 7386).

        A `resourceVersion` in the patch makes it conditional: another's change in between is a refusal with
        409.
        """
        await self._send("PATCH", f"/api/v1/nodes/{quote(name, safe='')}", patch, _MERGE_PATCH)

    async def patch_node_status(self, name: str, patch: Mapping[str, Any]) -> None:
        """Merge into a Node's status; list entries go by their key, as the API's types say.

        Raises:
            KubeError: No answer, or a refusal.
        """
        await self._send("PATCH", f"/api/v1/nodes/{quote(name, safe='')}/status", patch, _STRATEGIC_PATCH)

    async def delete_node(self, name: str, uid: str) -> None:
        """Delete the Node object with this uid, and no other of its name; one that is gone is no error."""
        await self._delete(f"/api/v1/nodes/{quote(name, safe='')}", uid)

    async def put_object(self, collection: str, name: str, item: Mapping[str, Any]) -> None:
        """Make an object, or bring the one of its name in line."""
        try:
            await self._send("POST", collection, item)
        except KubeRefusedError as error:
            if error.status != 409:
                raise
            await self._send("PATCH", f"{collection}/{quote(name, safe='')}", item, _MERGE_PATCH)

    async def secret(self, name: str) -> dict[str, Any] | None:
        """A secret of kube-system; None: there is none of that name."""
        try:
            found = await self._get(f"{_SECRETS}/{quote(name, safe='')}")
        except KubeRefusedError as error:
            if error.status == 404:
                return None
            raise
        if not isinstance(found, dict):
            raise KubeError(f"{self._url} did not answer with a secret")
        return found

    async def create_secret(self, secret: Mapping[str, Any]) -> None:
        await self._send("POST", _SECRETS, secret)

    async def delete_secret(self, secret: Mapping[str, Any]) -> None:
        """Delete this very secret, and no later one of its name; one that is gone is no error."""
        metadata = secret["metadata"]
        await self._delete(f"{_SECRETS}/{quote(metadata['name'], safe='')}", metadata.get("uid"))

    async def bootstrap_tokens(self) -> list[dict[str, Any]]:
        """The bootstrap tokens that Bramble made and that are still there."""
        wanted = urlencode({"labelSelector": f"{OWNER_LABEL}={OWNER}", "fieldSelector": f"type={TOKEN_TYPE}"})
        listing = await self._get(f"{_SECRETS}?{wanted}")
        try:
            return [item for item in listing["items"] if item["metadata"]["name"]]
        except (KeyError, TypeError) as error:
            raise KubeError(f"{self._url} did not answer with a list of secrets") from error

    async def _get(self, path: str) -> Any:
        return await self._send("GET", path)

    async def _delete(self, path: str, uid: str | None) -> None:
        body = {"apiVersion": "v1", "kind": "DeleteOptions"}
        options = body if uid is None else {**body, "preconditions": {"uid": uid}}
        try:
            await self._send("DELETE", path, options)
        except KubeRefusedError as error:
            # 409: the object of this uid is gone and another has its name.
            if error.status not in (404, 409):
                raise

    async def _send(self, method: str, path: str, body: object = None, kind: str = "application/json") -> Any:
        if self._session is None:
            raise KubeError("the client is not open")
        data = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": kind}
        try:
            async with self._session.request(
                method, self._url + path, data=data, headers=headers
            ) as response:
                if response.status not in (200, 201, 202):
                    why = await _reason(response)
                    where = f"{self._url}{path.partition('?')[0]}"
                    raise KubeRefusedError(f"{where} answered {response.status}{why}", response.status)
                return await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise KubeError(f"{self._url} does not answer: {error or type(error).__name__}") from error


async def _reason(response: aiohttp.ClientResponse) -> str:
    """The API's own words (`Status.message`), where it has some."""
    try:
        told = (await response.json()).get("message")
    except (aiohttp.ClientError, ValueError, AttributeError):
        return ""
    return f": {str(told)[:300]}" if told else ""


def _context(identity: ClientIdentity) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=identity.ca_pem)
    context.load_cert_chain(identity.certificate_path, identity.key_path)
    return context
