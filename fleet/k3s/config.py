"""What one node is handed to join the cluster: rendered from cluster.yaml and the key material.

Settings that must be equal on all servers come from one mapping (`cluster.k3s.config`), so that k3s never
finds a "critical configuration value mismatch". Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from agent.protocol import JoinMaterial, NodeFile
from fleet.join.secrets import BootstrapToken
from fleet.k3s.manifests import DIRECTORY, manifest, render_access
from fleet.k3s.material import K3sMaterial
from fleet.k3s.versions import Feature, K3sVersion, has
from fleet.kube.vip import FILE_NAME, kube_vip_objects
from fleet.recovery.state import Recovery
from fleet.secret import Secret
from fleet.spec.model import ClusterSpec, NodeSpec, Role

API_PORT: Final = 6443
DROP_IN: Final = "/etc/rancher/k3s/config.yaml.d/50-bramble.yaml"
TOKEN_FILE: Final = "/etc/rancher/k3s/bramble-token"
AGENT_TOKEN_FILE: Final = "/etc/rancher/k3s/bramble-agent-token"
NODE_PASSWORD_FILE: Final = "/etc/rancher/node/password"


@dataclass(frozen=True, slots=True)
class InitialiseCluster:
    """The node is the first server."""


@dataclass(frozen=True, slots=True)
class JoinServer:
    """The node joins the server behind `url`, `https://ADDRESS:6443`."""

    url: str


@dataclass(frozen=True, slots=True)
class RestoreCluster:
    """The node brings a lost cluster back from a snapshot, and is its first server."""

    recovery: Recovery


Way = InitialiseCluster | JoinServer | RestoreCluster


def unit_of(role: Role) -> str:
    """The systemd unit that runs k3s."""
    return "k3s.service" if role is Role.SERVER else "k3s-agent.service"


def render_join_material(
    spec: ClusterSpec,
    node: NodeSpec,
    material: K3sMaterial,
    way: Way,
    *,
    address: str | None,
    node_password: Secret,
    generation: int,
    version: K3sVersion | None,
    bootstrap: BootstrapToken | None = None,
) -> JoinMaterial:
    """Files and unit for one node.

    Args:
        address: The node's own IPv4 address where known; becomes `node-ip`, so that k3s does not choose among
            interfaces.
        version: The k3s of the node's image.
        bootstrap: What an agent joins with in place of the cluster's agent token, where k3s knows such
            tokens.
    """
    is_server = node.role is Role.SERVER
    if is_server:
        token = material.server_token
    else:
        token = material.pinned(bootstrap.text) if bootstrap else material.agent_token
    before = drop_in(spec, node, way, address=address, with_token=True)
    keeps = keeps_token(node.role, version)
    after = drop_in(spec, node, way, address=address, with_token=keeps)
    files = [
        _file(NODE_PASSWORD_FILE, node_password.reveal() + "\n"),
        _file(TOKEN_FILE, token.reveal() + "\n"),
        _file(DROP_IN, render_yaml(before)),
    ]
    if is_server:
        files.extend(server_manifests(spec))
        files.insert(0, _file(AGENT_TOKEN_FILE, material.agent_password.reveal() + "\n"))
    if isinstance(way, InitialiseCluster | RestoreCluster):
        files[:0] = [_file(path, content.reveal()) for path, content in material.tls_files().items()]
    restore = None
    if isinstance(way, RestoreCluster):
        files.append(way.recovery.reset_file())
        restore = way.recovery.restore()
    return JoinMaterial(
        restore=restore,
        generation=generation,
        unit=unit_of(node.role),
        files=tuple(files),
        # k3s fails to start when `token-file` names a missing file: the drop-in loses the key before the file
        # goes.
        files_after_ready=(_file(DROP_IN, render_yaml(after)),),
        remove_after_ready=() if keeps else (TOKEN_FILE,),
    )


def keeps_token(role: Role, version: K3sVersion | None) -> bool:
    """Whether a node that has joined still needs its token at every start: an agent of an old release.

    Servers never do: they read their own copy.
    """
    return role is Role.AGENT and not has(version, Feature.TOKENLESS_AGENTS)


def kept_files(
    spec: ClusterSpec,
    node: NodeSpec,
    server: str | None,
    *,
    address: str | None,
    version: K3sVersion | None,
) -> tuple[NodeFile, ...]:
    """What a node that has joined keeps: its settings, and a server the objects that it brings along."""
    settings = kept_settings(spec, node, server, address=address, version=version)
    return (settings, *server_manifests(spec)) if node.role is Role.SERVER else (settings,)


def server_manifests(spec: ClusterSpec) -> tuple[NodeFile, ...]:
    """Objects that every server brings into the cluster: the same on all of them."""
    vip = kube_vip_objects(spec.k3s)
    return (render_access(), manifest(f"{DIRECTORY}/{FILE_NAME}", vip)) if vip else (render_access(),)


def kept_settings(
    spec: ClusterSpec,
    node: NodeSpec,
    server: str | None,
    *,
    address: str | None,
    version: K3sVersion | None,
) -> NodeFile:
    """The drop-in of a node that has joined: no token where it can do without, no `cluster-init`, and the
    server that it finds again."""
    way = JoinServer(server) if server else InitialiseCluster()
    keeps = keeps_token(node.role, version)
    return _file(DROP_IN, render_yaml(drop_in(spec, node, way, address=address, with_token=keeps)))


def settings_digest(files: Iterable[NodeFile]) -> str:
    """Tells one version of what a node keeps from another."""
    return hashlib.sha256("\0".join(file.content for file in files).encode()).hexdigest()


def drop_in(
    spec: ClusterSpec, node: NodeSpec, way: Way, *, address: str | None, with_token: bool
) -> Mapping[str, Any]:
    """The node's k3s settings.

    Without the token a server keeps going from its own data directory and an agent from its kubelet
    certificate. `cluster-init` goes at the same time: etcd's data on the disk says it from then on, and a
    first server that was removed must not start a cluster of its own again.
    """
    is_server = node.role is Role.SERVER
    settings: dict[str, Any] = dict(spec.k3s.config) if is_server else {}
    settings["node-name"] = node.name
    if address:
        settings["node-ip"] = address
    if node.labels:
        settings["node-label"] = [f"{key}={value}" for key, value in sorted(node.labels.items())]
    if node.taints:
        settings["node-taint"] = [str(taint) for taint in node.taints]
    if with_token:
        settings["token-file"] = TOKEN_FILE
    if is_server:
        settings["agent-token-file"] = AGENT_TOKEN_FILE
        settings["tls-san"] = tls_names(spec)
    match way:
        case InitialiseCluster():
            if with_token:
                settings["cluster-init"] = True
        case JoinServer(url):
            settings["server"] = url
        case RestoreCluster():
            pass  # its data say which cluster it is
    return settings


def tls_names(spec: ClusterSpec) -> list[str]:
    """Every name and address under which the API may be asked: the same list on all servers, sorted."""
    names = {name for node in spec.servers for name in (node.name, spec.fqdn(node))}
    names.update(str(node.address) for node in spec.servers if node.address)
    if spec.k3s.api_vip:
        names.add(str(spec.k3s.api_vip))
    configured = spec.k3s.config.get("tls-san", [])
    names.update([configured] if isinstance(configured, str) else map(str, configured))
    return sorted(names)


def render_yaml(settings: Mapping[str, Any]) -> str:
    header = "# Written by Bramble; changes here are lost. Your own settings go into cluster.yaml.\n"
    return header + yaml.safe_dump(dict(settings), default_flow_style=False, width=1 << 16)


def _file(path: str, content: str) -> NodeFile:
    return NodeFile(path=path, mode="0600", content=content)
