"""The Kubernetes API, as far as nodes, secrets and namespaces go: get, list, create, replace, merge patch,
delete.

Not there, and refused with a text that says so: watches, strategic merge patches, server-side apply, pods
other than an empty list. Rights: `system:masters` may do everything, a node may read nodes and write its own.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass

from lab.k3s_sim.node.auth import MASTERS_GROUP, Authenticator, Identity, UnauthorizedError
from lab.k3s_sim.node.cluster import Cluster
from lab.k3s_sim.node.errors import StatusError, bad_request
from lab.k3s_sim.node.messages import Request, Response
from lab.k3s_sim.node.objects import Object
from lab.k3s_sim.node.settings import NODE_NAME

_HEALTH = ("/healthz", "/livez", "/readyz")
_LIST_KINDS = {"nodes": "NodeList", "secrets": "SecretList", "namespaces": "NamespaceList", "pods": "PodList"}
_NAMESPACED = ("secrets", "pods")
_MERGE_PATCH = "application/merge-patch+json"
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True)
class Target:
    """What a path names: /api/v1[/namespaces/<namespace>]/<resource>[/<name>[/status]]."""

    resource: str
    namespace: str
    name: str
    subresource: str


def parse_path(path: str) -> Target | None:
    """The object or collection that a path names; None if the simulator has none there."""
    parts = path.strip("/").split("/")
    if parts[:2] != ["api", "v1"]:
        return None
    parts = parts[2:]
    namespace = ""
    if len(parts) >= 3 and parts[0] == "namespaces":
        namespace, parts = parts[1], parts[2:]
        if parts[0] not in _NAMESPACED:
            return None
    resource, name, subresource = [*parts, "", "", ""][:3]
    if resource not in _LIST_KINDS or len(parts) > 3 or subresource not in ("", "status"):
        return None
    if name and resource in _NAMESPACED and not namespace:
        return None
    return Target(resource, namespace, name, subresource)


@dataclass(frozen=True)
class KubeApi:
    """The API server of one cluster. `version` is the simulated release, like v1.33.5+k3s1."""

    cluster: Cluster
    authenticator: Authenticator
    version: str

    def handle(self, request: Request) -> Response:
        """Answer one request.

        Raises:
            StatusError: the request is refused.
        """
        identity = self._identify(request)
        if request.path in _HEALTH:
            return Response(200, b"ok")
        if request.path == "/version":
            return Response.json({"gitVersion": f"{self.version}-simulator", "platform": "linux/arm64"})
        target = parse_path(request.path)
        if target is None:
            raise StatusError(404, "NotFound", "the server could not find the requested resource (simulator)")
        _authorize(identity, request, target)
        if not target.name:
            return self._collection(request, target)
        action: dict[str, Callable[[Request, Target], Object]] = {
            "GET": self._get,
            "PUT": self._put,
            "PATCH": self._patch,
            "DELETE": self._delete,
        }
        if request.method not in action:
            raise StatusError(
                405, "MethodNotAllowed", "the server does not allow this method on the requested resource"
            )
        return Response.json(action[request.method](request, target))

    def _identify(self, request: Request) -> Identity:
        """k3s runs its API server without anonymous access."""
        try:
            identity = self.authenticator.identify(request, time.time())
        except UnauthorizedError as error:
            raise StatusError(401, "Unauthorized", "Unauthorized") from error
        if identity is None:
            raise StatusError(401, "Unauthorized", "Unauthorized")
        return identity

    def _collection(self, request: Request, target: Target) -> Response:
        if request.method == "POST":
            return Response.json(self._create(request, target), 201)
        if request.method != "GET":
            raise StatusError(
                405, "MethodNotAllowed", "the server does not allow this method on the requested resource"
            )
        if request.query.get("watch", "false") not in ("false", "0"):
            raise bad_request("the simulator has no watch: list again instead")
        matches = _selector(request)
        items = [item for item in self.cluster.select(target.resource, target.namespace) if matches(item)]
        return Response.json(
            {
                "kind": _LIST_KINDS[target.resource],
                "apiVersion": "v1",
                "metadata": {"resourceVersion": str(self.cluster.revision)},
                "items": items,
            }
        )

    def _get(self, _request: Request, target: Target) -> Object:
        return self.cluster.get(target.resource, target.namespace, target.name)

    def _create(self, request: Request, target: Target) -> Object:
        given = _normalized(target.resource, request.json())
        name = given.get("metadata", {}).get("name", "")
        if not isinstance(name, str) or not NODE_NAME.fullmatch(name):
            raise StatusError(
                422,
                "Invalid",
                f'metadata.name: Invalid value: "{name}": a lowercase RFC 1123 subdomain is required',
            )
        if target.resource not in ("nodes", "secrets"):
            raise StatusError(405, "MethodNotAllowed", f"the simulator creates no {target.resource}")
        if target.resource == "secrets":
            self.cluster.get("namespaces", "", target.namespace)
        return self.cluster.create(target.resource, target.namespace, given)

    def _put(self, request: Request, target: Target) -> Object:
        given = _normalized(target.resource, request.json())
        self._require_mutable(target, given)
        return self.cluster.replace(target.resource, target.namespace, target.name, given)

    def _patch(self, request: Request, target: Target) -> Object:
        kind = request.header("content-type").partition(";")[0].strip()
        if kind != _MERGE_PATCH:
            text = f"the simulator takes {_MERGE_PATCH} only, not {kind!r}"
            raise StatusError(415, "UnsupportedMediaType", text)
        patch = _normalized(target.resource, request.json())
        if target.resource == "nodes" and target.subresource == "status":
            return self.cluster.heartbeat(target.name, patch)
        self._require_mutable(target, patch)
        return self.cluster.patch(target.resource, target.namespace, target.name, patch)

    def _delete(self, request: Request, target: Target) -> Object:
        preconditions = request.json().get("preconditions") or {}
        return self.cluster.delete(target.resource, target.namespace, target.name, preconditions)

    def _require_mutable(self, target: Target, given: Object) -> None:
        current = self.cluster.get(target.resource, target.namespace, target.name)
        if current.get("immutable") and given.get("data", current.get("data")) != current.get("data"):
            why = "data: Forbidden: field is immutable when `immutable` is set"
            raise StatusError(422, "Invalid", f'Secret "{target.name}" is invalid: {why}')


def _normalized(resource: str, given: Object) -> Object:
    """`stringData` of a secret becomes `data`, as the API server does it."""
    if not isinstance(given.get("metadata", {}), dict):
        raise bad_request("metadata is not an object")
    if resource != "secrets" or "stringData" not in given:
        return given
    plain = given.pop("stringData") or {}
    encoded = {key: base64.b64encode(str(value).encode()).decode() for key, value in plain.items()}
    return {**given, "data": {**(given.get("data") or {}), **encoded}}


def _authorize(identity: Identity, request: Request, target: Target) -> None:
    if MASTERS_GROUP in identity.groups:
        return
    verb = _VERBS.get(request.method, "get" if target.name else "list")
    if identity.node is not None and target.resource == "nodes":
        own = target.name == identity.node
        registers = verb == "create" and request.json().get("metadata", {}).get("name") == identity.node
        if verb in ("get", "list") or registers or (own and verb in ("update", "patch")):
            return
    scope = f'in the namespace "{target.namespace}"' if target.namespace else "at the cluster scope"
    text = f'User "{identity.name}" cannot {verb} resource "{target.resource}" in API group "" {scope}'
    subject = f'{target.resource} "{target.name}"' if target.name else target.resource
    raise StatusError(403, "Forbidden", f"{subject} is forbidden: {text}")


def _selector(request: Request) -> Callable[[Object], bool]:
    """Equality selectors on labels and on the name; anything else is refused instead of ignored."""
    wanted_labels = _equalities(request.query.get("labelSelector", ""))
    wanted_fields = _equalities(request.query.get("fieldSelector", ""))
    if set(wanted_fields) - {"metadata.name", "type", "spec.nodeName"}:
        raise bad_request(f"field selector not supported by the simulator: {request.query['fieldSelector']}")

    def matches(item: Object) -> bool:
        labels = item["metadata"].get("labels", {})
        name, kind = wanted_fields.get("metadata.name"), wanted_fields.get("type")
        return (
            all(labels.get(key) == value for key, value in wanted_labels.items())
            and name in (None, item["metadata"]["name"])
            and kind in (None, item.get("type"))
        )

    return matches


def _equalities(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        key, separator, value = part.replace("==", "=").partition("=")
        if not separator or key.endswith("!") or " " in part:
            raise bad_request(f"the simulator understands 'key=value' selectors only, not {part!r}")
        pairs[key] = value
    return pairs
