"""The little that Bramble asks of the Kubernetes API, over HTTPS with a client certificate.

Trusts exactly the cluster's server CA. One `KubeApi` per server; it owns its connections. How the answers
are read is in `fleet.kube.objects`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Mapping
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import aiohttp

from fleet.errors import FleetError
from fleet.join.secrets import NAMESPACE, OWNER, OWNER_LABEL, TOKEN_TYPE
from fleet.k3s.material import ClientIdentity
from fleet.kube.objects import KubeNode, parse_node
from fleet.kube.pods import KubePod, parse_pod

__all__ = ["KubeApi", "KubeError", "KubeNode", "KubeRefusedError", "parse_node"]

TIMEOUT_S: Final = 5.0
_SECRETS: Final = f"/api/v1/namespaces/{NAMESPACE}/secrets"
_LEASES: Final = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
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
        self.url = self._url = url
        self._tls = _context(identity)
        self._session: aiohttp.ClientSession | None = None
        self._sockets: list[socket.socket] = []

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        connector = aiohttp.TCPConnector(ssl=self._tls, socket_factory=self._make_socket)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._session is not None:
            await self._session.close()
        # asyncio waits half a minute for the end of TLS, which an API without its etcd never says.
        for one in self._sockets:
            with contextlib.suppress(OSError):  # closed already, as most are
                one.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()

    def _make_socket(self, address: Any) -> socket.socket:
        made = socket.socket(*address[:3])
        self._sockets.append(made)
        return made

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

    async def pods_on(self, node: str) -> tuple[KubePod, ...]:
        """The pods that are bound to a node, of all namespaces.

        Raises:
            KubeError: No answer, a refusal, or not a list of pods.
        """
        query = urlencode({"fieldSelector": f"spec.nodeName={node}"})
        listing = await self._get(f"/api/v1/pods?{query}")
        try:
            return tuple(map(parse_pod, listing["items"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise KubeError(f"{self._url} did not answer with a list of pods") from error

    async def evict(self, pod: KubePod, api_version: str) -> None:
        """Ask for the eviction of this very pod; one that is gone is no error.

        Args:
            api_version: Of the Eviction object, `policy/v1` since Kubernetes 1.22.

        Raises:
            KubeRefusedError: 429: a disruption budget, or the API's rate limit; 500: several budgets.
            KubeError: No answer.
        """
        body = {
            "apiVersion": api_version,
            "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": pod.namespace},
            "deleteOptions": {"preconditions": {"uid": pod.uid}},
        }
        try:
            await self._send("POST", f"{_pod_path(pod)}/eviction", body)
        except KubeRefusedError as error:
            # 409: the pod of this uid is gone and another has its name.
            if error.status not in (404, 409):
                raise

    async def delete_pod(self, pod: KubePod) -> None:
        """Delete this very pod at once, without its grace; one that is gone is no error."""
        await self._delete(_pod_path(pod), pod.uid, gracePeriodSeconds=0)

    async def volume_of(self, namespace: str, claim: str) -> Mapping[str, Any] | None:
        """The PersistentVolume that a claim is bound to; None: it is bound to none, or is gone.

        Raises:
            KubeError: No answer, or a refusal.
        """
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/persistentvolumeclaims"
        found = await self._find(f"{path}/{quote(claim, safe='')}")
        name = ((found or {}).get("spec") or {}).get("volumeName")
        return await self._find(f"/api/v1/persistentvolumes/{quote(name, safe='')}") if name else None

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
        return await self._find(f"{_SECRETS}/{quote(name, safe='')}")

    async def create_secret(self, secret: Mapping[str, Any]) -> None:
        await self._send("POST", _SECRETS, secret)

    async def delete_secret(self, secret: Mapping[str, Any]) -> None:
        """Delete this very secret, and no later one of its name; one that is gone is no error."""
        metadata = secret["metadata"]
        await self._delete(f"{_SECRETS}/{quote(metadata['name'], safe='')}", metadata.get("uid"))

    async def lease(self, name: str) -> dict[str, Any] | None:
        """A lease of kube-system; None: there is none of that name."""
        return await self._find(f"{_LEASES}/{quote(name, safe='')}")

    async def give_lease(self, name: str, seen: Mapping[str, Any], holder: str) -> None:
        """Make somebody else the holder of a lease that is as it was seen.

        The former holder loses it at its next renewal, and the new one finds that it has it.

        Raises:
            KubeRefusedError: 409: it was renewed in between.
        """
        version = seen["metadata"].get("resourceVersion")
        patch = {"metadata": {"resourceVersion": version}, "spec": {"holderIdentity": holder}}
        await self._send("PATCH", f"{_LEASES}/{quote(name, safe='')}", patch, _MERGE_PATCH)

    async def bootstrap_tokens(self) -> list[dict[str, Any]]:
        """The bootstrap tokens that Bramble made and that are still there."""
        wanted = urlencode({"labelSelector": f"{OWNER_LABEL}={OWNER}", "fieldSelector": f"type={TOKEN_TYPE}"})
        listing = await self._get(f"{_SECRETS}?{wanted}")
        try:
            return [item for item in listing["items"] if item["metadata"]["name"]]
        except (KeyError, TypeError) as error:
            raise KubeError(f"{self._url} did not answer with a list of secrets") from error

    async def _find(self, path: str) -> dict[str, Any] | None:
        """One object; None: there is none of that name."""
        try:
            found = await self._get(path)
        except KubeRefusedError as error:
            if error.status == 404:
                return None
            raise
        if not isinstance(found, dict):
            raise KubeError(f"{self._url} did not answer with an object")
        return found

    async def _get(self, path: str) -> Any:
        return await self._send("GET", path)

    async def _delete(self, path: str, uid: str | None, **more: Any) -> None:
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", **more}
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


def _pod_path(pod: KubePod) -> str:
    return f"/api/v1/namespaces/{quote(pod.namespace, safe='')}/pods/{quote(pod.name, safe='')}"


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
