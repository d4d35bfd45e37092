"""The cluster's Kubernetes API as plain memory, which can be cut off in the middle of a conversation."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fleet.kube.client import KubeError, KubeRefusedError
from fleet.kube.objects import KubeNode


class CutOffError(BaseException):
    """The controller's process ended here."""


@dataclass
class KubeMemory:
    """Nodes and secrets. `calls_left`: so many calls work, then the caller's process ends; None: all do."""

    nodes_seen: dict[str, KubeNode] = field(default_factory=dict)
    secrets: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls_left: int | None = None
    answers: bool = True
    _serial: int = 0

    @contextlib.asynccontextmanager
    async def connect(self, _url: str) -> AsyncIterator[Any]:
        yield self

    def _called(self) -> None:
        if not self.answers:
            raise KubeError("does not answer")
        if self.calls_left is not None:
            if self.calls_left == 0:
                raise CutOffError
            self.calls_left -= 1

    async def nodes(self) -> dict[str, KubeNode]:
        self._called()
        return dict(self.nodes_seen)

    async def patch_node(self, _name: str, _patch: Mapping[str, Any]) -> None:
        self._called()

    async def patch_node_status(self, _name: str, _patch: Mapping[str, Any]) -> None:
        self._called()

    async def delete_node(self, name: str, uid: str) -> None:
        self._called()
        if name in self.nodes_seen and self.nodes_seen[name].uid == uid:
            del self.nodes_seen[name]

    async def secret(self, name: str) -> dict[str, Any] | None:
        self._called()
        return self.secrets.get(name)

    async def create_secret(self, secret: Mapping[str, Any]) -> None:
        self._called()
        name = secret["metadata"]["name"]
        if name in self.secrets:
            raise KubeRefusedError("already exists", 409)
        self._serial += 1
        metadata = {**secret["metadata"], "uid": f"uid-{self._serial}"}
        self.secrets[name] = {**secret, "metadata": metadata}

    async def delete_secret(self, secret: Mapping[str, Any]) -> None:
        self._called()
        name = secret["metadata"]["name"]
        if name in self.secrets and self.secrets[name]["metadata"]["uid"] == secret["metadata"]["uid"]:
            del self.secrets[name]

    async def bootstrap_tokens(self) -> list[dict[str, Any]]:
        self._called()
        return [one for one in self.secrets.values() if one["type"] == "bootstrap.kubernetes.io/token"]
