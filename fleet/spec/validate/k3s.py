"""The k3s part: how many servers, and which settings are the user's to make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from fleet.spec.draft import Draft
from fleet.spec.model import KUBE_VIP_IMAGE, Role
from fleet.spec.problems import Severity
from fleet.spec.shape import Finding

_OWNED: Final[Mapping[str, str]] = {
    "cluster-init": "Bramble chooses the one server that founds the cluster",
    "server": "Bramble tells every node which server to join",
    "token": "Bramble makes the cluster's tokens and delivers them over TLS",
    "token-file": "Bramble makes the cluster's tokens and delivers them over TLS",
    "agent-token": "Bramble makes the cluster's tokens and delivers them over TLS",
    "agent-token-file": "Bramble makes the cluster's tokens and delivers them over TLS",
    "cluster-reset": "a reset is an action on one node, not a setting",
    "cluster-reset-restore-path": "a restore is an action on one node, not a setting",
    "datastore-endpoint": "Bramble's clusters keep their state in k3s' embedded etcd",
    "data-dir": "the image carries k3s' files in /var/lib/rancher/k3s",
    "https-listen-port": "nodes and the virtual address expect the API on port 6443",
    "node-name": "the node's name comes from 'nodes'",
    "with-node-id": "the node's name comes from 'nodes'",
    "node-ip": "the node's address comes from 'nodes'",
    "node-label": "labels are set per node, under 'labels'",
    "node-taint": "taints are set per node, under 'taints'",
}
"""Keys of k3s' config.yaml that Bramble writes or relies on, and why."""


_REGISTRIES: Final = ("mirrors", "configs")
"""Top-level keys of registries.yaml. Source: k3s documentation, "Private registry configuration"."""


def check_k3s(draft: Draft) -> Iterator[Finding]:
    """Find server counts that survive nothing, and pass-through keys that Bramble owns."""
    yield from _servers(draft)
    yield from _kube_vip(draft)
    for name in draft.k3s.config or {}:
        # k3s reads 'key+' as "append to the list of key".
        if reason := _OWNED.get(name.removesuffix("+")):
            key = ("cluster", "k3s", "config", name)
            yield Finding(key, f"the k3s setting {name!r} is Bramble's: {reason}", "Remove it.")
    yield from _registries(draft.k3s.registries or {})


def _kube_vip(draft: Draft) -> Iterator[Finding]:
    """Find an address that nobody would answer for."""
    where, section = ("cluster", "k3s", "kube_vip"), draft.k3s.kube_vip
    if draft.k3s.api_vip is None:
        if section is not None:
            text = "kube_vip says how 'api_vip' is answered for, and there is none"
            yield Finding(where, text, "Give 'api_vip', or remove it.")
        return
    if section is not None and section.enabled is False:
        return
    if section is None or section.image is None:
        yield Finding(
            ("cluster", "k3s", "api_vip"),
            f"servers pull {KUBE_VIP_IMAGE} to answer for this address: it is not among k3s's own images",
            "Where they reach no registry, put its archive into an overlay, below "
            "/var/lib/rancher/k3s/agent/images. Name it in 'kube_vip.image' to say that you know.",
            Severity.WARNING,
        )
    if draft.network.gateway is None and (section is None or section.interface is None):
        yield Finding(
            ("cluster", "k3s", "api_vip"),
            "without 'network.gateway' servers have no default route, by which kube-vip finds its interface",
            "Name it: 'kube_vip: {interface: eth0}', as the servers call it.",
            Severity.WARNING,
        )


def _registries(registries: Mapping[str, Any]) -> Iterator[Finding]:
    where = ("cluster", "k3s", "registries")
    for name, value in registries.items():
        if name not in _REGISTRIES:
            known = " and ".join(_REGISTRIES)
            yield Finding((*where, name), f"registries.yaml has no key {name!r}, only {known}", "Remove it.")
        elif not isinstance(value, dict):
            yield Finding((*where, name), f"{name!r} must map registries to their settings", "See k3s' docs.")
    configs = registries.get("configs")
    for host, config in configs.items() if isinstance(configs, dict) else ():
        if isinstance(config, dict) and "auth" in config:
            yield Finding(
                (*where, "configs", host, "auth"),
                f"the credentials of {host!r} stand in this file (not shown here)",
                "Put a registries.yaml with credentials into an overlay, outside of version control.",
            )


def _servers(draft: Draft) -> Iterator[Finding]:
    if not draft.nodes or any(node.section.role is None for node in draft.nodes):
        return
    count = sum(node.section.role is Role.SERVER for node in draft.nodes)
    if count == 0:
        yield Finding(
            ("nodes",), "no node has 'role: server', a cluster needs one", "Make 1 or 3 nodes servers."
        )
    elif count % 2 == 0:
        survives = (count - 1) // 2
        loses = "no failure" if survives == 0 else f"{survives} failure{'s' if survives > 1 else ''}"
        odd = f"{count - 1} or {count + 1}"
        yield Finding(
            ("nodes",),
            f"{count} servers survive {loses}, as {count - 1} would: etcd needs more than half of them",
            f"Make it {odd} servers.",
        )
