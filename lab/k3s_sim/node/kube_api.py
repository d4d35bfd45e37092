"""The Kubernetes API, as far as its clients here need it: get, list, watch, create, replace, patch, delete,
evict, and the discovery documents that kubectl reads.

Not there, and refused with a text that says so: server-side apply, dry runs, conversion between versions.
What an object may hold is not checked against a schema.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lab.k3s_sim.node import patches
from lab.k3s_sim.node.auth import Authenticator, Identity, UnauthorizedError
from lab.k3s_sim.node.cluster import Cluster, Edit
from lab.k3s_sim.node.datastore import DELETED, MODIFIED, Change, ExpiredError
from lab.k3s_sim.node.errors import StatusError, bad_request
from lab.k3s_sim.node.eviction import require_evictable
from lab.k3s_sim.node.messages import Request, Response
from lab.k3s_sim.node.objects import Object
from lab.k3s_sim.node.rbac import Attempt, require_allowed
from lab.k3s_sim.node.resources import Target, discovery, parse_path
from lab.k3s_sim.node.selectors import Matcher, field_selector, label_selector
from lab.k3s_sim.node.settings import NODE_NAME

_HEALTH = ("/healthz", "/livez", "/readyz")
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_WATCH_S = 300.0
"""How long a watch lasts whose client names no time; Kubernetes takes half an hour to an hour."""
_NAMESPACE_GONE = 'namespaces "{}" not found'


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
            return self._health()
        if request.path == "/version":
            return Response.json(self._version())
        document = discovery(request.path) if request.method == "GET" else None
        if document is not None:
            return Response.json(document)
        target = parse_path(request.path)
        if target is None:
            raise StatusError(404, "NotFound", "the server could not find the requested resource")
        if "dryRun" in request.query:
            raise bad_request("the simulator does no dry runs: the change would be made")
        _require_json(request)
        require_allowed(self.cluster, identity, _attempt(request, target))
        if target.subresource == "eviction":
            return self._evict(request, target)
        if not target.name:
            return self._collection(request, target)
        action: dict[str, Callable[[Request, Target, Identity], Object]] = {
            "GET": self._get,
            "PUT": self._put,
            "PATCH": self._patch,
            "DELETE": self._delete,
        }
        if request.method not in action:
            raise _method_not_allowed()
        return Response.json(action[request.method](request, target, identity))

    def _identify(self, request: Request) -> Identity:
        """k3s runs its API server without anonymous access."""
        try:
            identity = self.authenticator.identify(request, time.time())
        except UnauthorizedError as error:
            raise StatusError(401, "Unauthorized", "Unauthorized") from error
        if identity is None:
            raise StatusError(401, "Unauthorized", "Unauthorized")
        return identity

    def _health(self) -> Response:
        """Healthy is who can read its datastore, and finds in it what every cluster has from the start."""
        try:
            self.cluster.get("namespaces", "", "kube-system")
        except StatusError as error:
            return Response(500, f"[-]etcd failed: {error.message}\n".encode())
        return Response(200, b"ok")

    def _version(self) -> Object:
        major, minor, *_ = self.version.lstrip("v").split(".")
        version = {"major": major, "minor": minor, "gitVersion": f"{self.version}-simulator"}
        return {**version, "platform": "linux/arm64", "goVersion": "none", "compiler": "none"}

    def _collection(self, request: Request, target: Target) -> Response:
        if request.method == "POST":
            return Response.json(self._create(request, target), 201)
        if request.method != "GET":
            raise _method_not_allowed()
        matches = _selector(request)
        if _is_true(request.query.get("watch", "")):
            return self._watch(request, target, matches)
        found, version = self.cluster.list(target.resource.plural, target.namespace)
        items, following = _page(request, [item for item in found if matches(item)])
        kind = f"{target.resource.kind}List"
        metadata = {"resourceVersion": str(version), **following}
        return Response.json(
            {"kind": kind, "apiVersion": target.resource.api_version, "metadata": metadata, "items": items}
        )

    def _watch(self, request: Request, target: Target, matches: Matcher) -> Response:
        plural, namespace = target.resource.plural, target.namespace
        given = request.query.get("resourceVersion", "")
        if given and not given.isdigit():
            raise bad_request(f'resourceVersion: Invalid value: "{given}": not a version of this cluster')
        wait_s = float(_number(request, "timeoutSeconds") or _WATCH_S)
        present: list[Object] = []
        since = int(given or 0)
        if since == 0:  # from whatever there is now on
            found, since = self.cluster.list(plural, namespace)
            present = [item for item in found if matches(item)]

        def lines() -> Iterator[bytes]:
            for item in present:
                yield _line("ADDED", item)
            shown = {item["metadata"]["uid"] for item in present}
            try:
                for change in self.cluster.changes(plural, namespace, since, wait_s):
                    line = _change_line(change, matches, shown)
                    if line:
                        yield line
            except ExpiredError:
                text = f"too old resource version: {since}"
                yield _line("ERROR", StatusError(410, "Expired", text).to_json())
            except StatusError as error:
                yield _line("ERROR", error.to_json())

        return Response(200, content_type="application/json", stream=lines())

    def _get(self, _request: Request, target: Target, _identity: Identity) -> Object:
        return self.cluster.get(target.resource.plural, target.namespace, target.name)

    def _create(self, request: Request, target: Target) -> Object:
        plural = target.resource.plural
        given = _normalized(plural, request.json())
        metadata = given.setdefault("metadata", {})
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = f"{metadata['generateName']}{secrets.token_hex(3)}"
        name = metadata.get("name", "")
        if not isinstance(name, str) or not NODE_NAME.fullmatch(name.replace(":", "-")):
            text = f'metadata.name: Invalid value: "{name}": a lowercase RFC 1123 subdomain is required'
            raise StatusError(422, "Invalid", text)
        if metadata.get("namespace", target.namespace) != target.namespace:
            raise bad_request(
                "the namespace of the provided object does not match the namespace of the request"
            )
        if target.resource.namespaced:
            self._require_namespace(target)
        if plural == "pods":
            given = _as_running(given)
        return self.cluster.create(plural, target.namespace, given)

    def _require_namespace(self, target: Target) -> None:
        if not target.namespace:
            raise bad_request("an object of this kind is made in a namespace")
        if self.cluster.find("namespaces", "", target.namespace) is None:
            raise StatusError(404, "NotFound", _NAMESPACE_GONE.format(target.namespace))

    def _put(self, request: Request, target: Target, _identity: Identity) -> Object:
        given = _normalized(target.resource.plural, request.json())
        metadata = given.get("metadata") or {}
        return self._change(target, lambda _current: given, metadata)

    def _patch(self, request: Request, target: Target, identity: Identity) -> Object:
        kind = request.header("content-type").partition(";")[0].strip()
        patch = request.value()
        if isinstance(patch, dict):
            patch = _normalized(target.resource.plural, patch)
        preconditions = (patch.get("metadata") or {}) if isinstance(patch, dict) else {}

        def edit(current: Object) -> Object:
            return patches.apply_patch(kind, current, patch)

        is_kubelet = identity.node is not None and identity.node == target.name
        if target.resource.plural == "nodes" and target.subresource == "status" and is_kubelet:
            return self.cluster.heartbeat(target.name, _limited(edit, target))
        return self._change(target, edit, preconditions)

    def _change(self, target: Target, edit: Edit, preconditions: Object) -> Object:
        return self.cluster.update(
            target.resource.plural, target.namespace, target.name, _limited(edit, target),
            uid=str(preconditions.get("uid") or ""),
            version=str(preconditions.get("resourceVersion") or ""),
        )  # fmt: skip

    def _delete(self, request: Request, target: Target, _identity: Identity) -> Object:
        options = request.json()
        return self._remove(request, target, options)

    def _remove(self, request: Request, target: Target, options: Object) -> Object:
        grace_s = options.get("gracePeriodSeconds", _number(request, "gracePeriodSeconds"))
        if target.resource.plural != "pods":
            grace_s = 0
        elif grace_s is None:
            pod = self.cluster.get("pods", target.namespace, target.name)
            spec = pod.get("spec") or {}
            grace_s = spec.get("terminationGracePeriodSeconds", 30) if spec.get("nodeName") else 0
        return self.cluster.delete(
            target.resource.plural, target.namespace, target.name,
            options.get("preconditions"), int(grace_s),
        )  # fmt: skip

    def _evict(self, request: Request, target: Target) -> Response:
        if request.method != "POST":
            raise _method_not_allowed()
        body = request.json()
        name = (body.get("metadata") or {}).get("name", target.name)
        if body.get("kind") != "Eviction" or name != target.name:
            raise bad_request("the body is not an Eviction of the pod that the path names")
        pod = self.cluster.get("pods", target.namespace, target.name)
        budgets = self.cluster.select("poddisruptionbudgets", target.namespace)
        require_evictable(pod, budgets, self.cluster.select("pods", target.namespace))
        self._remove(request, target, body.get("deleteOptions") or {})
        success = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
        return Response.json(success, 201)


def _require_json(request: Request) -> None:
    """kubectl sends some objects in protobuf, which this server does not read and says so."""
    kind = request.header("content-type").partition(";")[0].strip()
    if kind.startswith("application/vnd.kubernetes."):
        text = f"the body of the request was in an unknown format: {kind}; this server reads JSON"
        raise StatusError(415, "UnsupportedMediaType", text)


def _attempt(request: Request, target: Target) -> Attempt:
    verb = _VERBS.get(request.method, "get" if target.name else "list")
    if verb == "list" and _is_true(request.query.get("watch", "")):
        verb = "watch"
    name = target.name
    if verb == "create" and not name:
        metadata = request.json().get("metadata")
        name = str(metadata.get("name", "")) if isinstance(metadata, dict) else ""
    return Attempt(verb, target, name)


def _limited(edit: Edit, target: Target) -> Edit:
    """A change through `status` changes status and metadata only; any other leaves the status of kinds that
    have the part alone. What is immutable stays.
    """

    def limited(current: Object) -> Object:
        changed = edit(current)
        if target.subresource == "status":
            metadata = changed.get("metadata") or current["metadata"]
            return {**current, "status": changed.get("status", {}), "metadata": metadata}
        if "status" in target.resource.subresources and "status" in current:
            changed = {**changed, "status": current["status"]}
        if current.get("immutable"):
            _require_same(target, current, changed)
        return changed

    return limited


def _require_same(target: Target, current: Object, changed: Object) -> None:
    for key in ("data", "immutable", "type"):
        if changed.get(key) != current.get(key):
            why = f"{key}: Forbidden: field is immutable when `immutable` is set"
            kind = target.resource.kind
            raise StatusError(422, "Invalid", f'{kind} "{target.name}" is invalid: {why}')


def _normalized(plural: str, given: Object) -> Object:
    """`stringData` of a secret becomes `data`, as the API server does it."""
    if not isinstance(given.get("metadata") or {}, dict):
        raise bad_request("metadata is not an object")
    if plural != "secrets" or "stringData" not in given:
        return given
    plain = given.pop("stringData") or {}
    encoded = {key: base64.b64encode(str(value).encode()).decode() for key, value in plain.items()}
    return {**given, "data": {**(given.get("data") or {}), **encoded}}


def _as_running(pod: Object) -> Object:
    """There are no containers: a pod that names its node and no status runs from the start."""
    if not (pod.get("spec") or {}).get("nodeName") or pod.get("status"):
        return pod
    return {**pod, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}


def _selector(request: Request) -> Matcher:
    by_label = label_selector(request.query.get("labelSelector", ""))
    by_field = field_selector(request.query.get("fieldSelector", ""))
    return lambda item: by_label(item) and by_field(item)


def _page(request: Request, items: list[Object]) -> tuple[list[Object], Object]:
    """One page of a list, and what its metadata says about the next one. A page is as of now."""
    limit = _number(request, "limit") or 0
    start = request.query.get("continue", "")
    if start and not start.isdigit():
        raise bad_request(f"continue key is not valid: {start!r}")
    rest = items[int(start or 0) :]
    if not limit or len(rest) <= limit:
        return rest, {}
    return rest[:limit], {"continue": str(int(start or 0) + limit), "remainingItemCount": len(rest) - limit}


def _number(request: Request, name: str) -> int | None:
    text = request.query.get(name, "")
    if not text:
        return None
    if not text.isdigit():
        raise bad_request(f"{name}: {text!r} is not a number")
    return int(text)


def _is_true(text: str) -> bool:
    return text.lower() in ("true", "1")


def _line(kind: str, item: Any) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


def _change_line(change: Change, matches: Matcher, shown: set[str]) -> bytes:
    """A watch's line, or nothing: an object that no longer matches is reported as deleted."""
    item = change.stored.labelled()
    uid = item["metadata"]["uid"]
    if change.kind != DELETED and matches(item):
        kind = MODIFIED if uid in shown else change.kind
        shown.add(uid)
        return _line(kind, item)
    if uid in shown or (change.kind == DELETED and matches(item)):
        shown.discard(uid)
        return _line(DELETED, item)
    return b""


def _method_not_allowed() -> StatusError:
    text = "the server does not allow this method on the requested resource"
    return StatusError(405, "MethodNotAllowed", text)
