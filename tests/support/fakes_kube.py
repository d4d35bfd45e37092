"""A Kubernetes API server that knows nodes and secrets, with TLS by the cluster's own CAs."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509

from fleet.api.connections import Connections
from fleet.trust.certificates import (
    certificate_pem,
    key_pem,
    load_authority,
    new_key,
    sign_leaf,
    subject,
    utc,
)

SECRETS = "/api/v1/namespaces/kube-system/secrets"


def _refusal(status: int) -> web.Response:
    return web.json_response({"kind": "Status", "code": status, "message": "refused"}, status=status)


@dataclass
class FakeKube:
    """Change `ready` while it runs; `asked_by` collects the subjects of the client certificates."""

    directory: Path
    ready: dict[str, bool] = field(default_factory=dict)
    asked_by: list[Any] = field(default_factory=list)
    patches: list[tuple[str, Any]] = field(default_factory=list)
    conditions: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Node → type → condition, as the patches left them."""
    voters: dict[str, bool] = field(default_factory=dict)
    """Servers of which the API says whether they vote in etcd."""
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict)
    taints: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    secrets: dict[str, dict[str, Any]] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    """Addresses of the cluster that do not answer; for whoever connects."""
    changes: list[str] = field(default_factory=list)
    """Every call that changes something: method and path."""

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[int]:
        """Listen on a free port of 127.0.0.1; `directory` is the cluster's key material."""
        app = web.Application()
        app.router.add_get("/api/v1/nodes", self._nodes)
        app.router.add_patch("/api/v1/nodes/{name}/status", self._patch)
        app.router.add_route("*", "/api/v1/nodes/{name}", self._node_change)
        app.router.add_route("*", f"{SECRETS}", self._secret_list)
        app.router.add_route("*", f"{SECRETS}/{{name}}", self._one_secret)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        connections = Connections(runner)
        try:
            yield await connections.listen("127.0.0.1", 0, self._context())
        finally:
            await connections.end()

    async def _nodes(self, request: web.Request) -> web.Response:
        shown = request.get_extra_info("ssl_object").getpeercert()
        if not shown:
            return web.json_response({"kind": "Status", "code": 401}, status=401)
        self.asked_by.append(shown["subject"])
        return web.json_response({"kind": "NodeList", "items": [self._node(name) for name in self.ready]})

    async def _patch(self, request: web.Request) -> web.Response:
        """Strategic merge of `status.conditions`, whose merge key is `type`."""
        name = request.match_info["name"]
        if request.content_type != "application/strategic-merge-patch+json":
            return web.json_response({"kind": "Status", "code": 415}, status=415)
        if name not in self.ready:
            return web.json_response({"kind": "Status", "code": 404}, status=404)
        patch = await request.json()
        self.patches.append((name, patch))
        known = self.conditions.setdefault(name, {})
        known |= {entry["type"]: entry for entry in patch["status"]["conditions"]}
        return web.json_response(self._node(name))

    def _node(self, name: str) -> dict[str, Any]:
        conditions = [{"type": "Ready", "status": "True" if self.ready[name] else "False", "message": "told"}]
        if name in self.voters:
            conditions.append(
                {"type": "EtcdIsVoter", "status": "True" if self.voters[name] else "False", "message": ""}
            )
        status = {"conditions": conditions, "nodeInfo": {"kubeletVersion": "v1.33.5+k3s1"}}
        metadata = {"name": name, "uid": f"uid-{name}", **self.metadata.get(name, {})}
        return {"metadata": metadata, "status": status, "spec": {"taints": self.taints.get(name, [])}}

    async def _node_change(self, request: web.Request) -> web.Response:
        name, body = request.match_info["name"], await request.json()
        self.changes.append(f"{request.method} {request.path}")
        if request.method == "DELETE":
            if body["preconditions"]["uid"] != f"uid-{name}":
                return _refusal(409)
            del self.ready[name]
            return web.json_response({"kind": "Status"})
        assert request.content_type == "application/merge-patch+json"
        given = dict(body.get("metadata", {}))
        if given.pop("resourceVersion", None) != self.metadata.get(name, {}).get("resourceVersion"):
            return _refusal(409)
        kept = self.metadata.setdefault(name, {})
        for part, values in given.items():
            merged = {**kept.get(part, {}), **values}
            kept[part] = {key: value for key, value in merged.items() if value is not None}
        if "taints" in body.get("spec", {}):
            self.taints[name] = body["spec"]["taints"]
        return web.json_response(self._node(name))

    async def _secret_list(self, request: web.Request) -> web.Response:
        if request.method == "GET":
            key, value = request.query["labelSelector"].split("=")
            kind = request.query["fieldSelector"].removeprefix("type=")
            found = [
                secret
                for secret in self.secrets.values()
                if secret["type"] == kind and secret["metadata"].get("labels", {}).get(key) == value
            ]
            return web.json_response({"kind": "SecretList", "items": found})
        secret = await request.json()
        name = secret["metadata"]["name"]
        self.changes.append(f"POST {name}")
        if name in self.secrets:
            return _refusal(409)
        secret["metadata"]["uid"] = f"uid-{len(self.changes)}"
        self.secrets[name] = secret
        return web.json_response(secret, status=201)

    async def _one_secret(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.secrets:
            return _refusal(404)
        if request.method == "GET":
            return web.json_response(self.secrets[name])
        assert request.method == "DELETE"
        self.changes.append(f"DELETE {name}")
        wanted = (await request.json())["preconditions"]["uid"]
        if wanted != self.secrets[name]["metadata"]["uid"]:
            return _refusal(409)
        del self.secrets[name]
        return web.json_response({"kind": "Status"})

    def _context(self) -> ssl.SSLContext:
        certificate, private = (self.directory / f"server-ca.{kind}" for kind in ("crt", "key"))
        authority = load_authority(certificate.read_bytes(), private.read_bytes())
        key = new_key()
        leaf = sign_leaf(
            authority,
            key.public_key(),
            subject("k3s"),
            now=utc(time.time()),
            lifetime=authority.certificate.not_valid_after_utc - utc(time.time()),
            names=[x509.IPAddress(IPv4Address("127.0.0.1"))],
            is_server=True,
        )
        chain = self.directory.parent / "fake-kube.pem"
        chain.write_bytes(certificate_pem(leaf) + key_pem(key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        context.load_verify_locations(self.directory / "client-ca.crt")
        context.verify_mode = ssl.CERT_OPTIONAL
        return context
