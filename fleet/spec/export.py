"""The spec as plain values: for `--json`, for "where does this value come from", and for hashing.

`to_document` has the layout of cluster.yaml and parses back to an equal spec.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fleet.spec.document import Document, Key, dotted
from fleet.spec.model import (
    BaseRef,
    CatalogueBase,
    ClusterSpec,
    FileBase,
    NodeSpec,
    UrlBase,
)
from fleet.spec.notify_model import channel_document
from fleet.spec.power import (
    CommandPower,
    ManualPower,
    PowerSpec,
    SecretPlace,
    ShellyPower,
    SnmpPoePower,
    TasmotaPower,
)
from fleet.spec.values import render_duration, render_memory


def to_document(spec: ClusterSpec) -> dict[str, Any]:
    """Every effective value as dict, list, str, int, float, bool or None, in the layout of cluster.yaml.

    Paths are absolute. None stands for "not set".
    """
    network, policy = spec.network, spec.policy
    return {
        "version": 1,
        "cluster": {
            "name": spec.name,
            "domain": spec.domain,
            "k3s": {
                "version": spec.k3s.version,
                "source": str(spec.k3s.source),
                "airgap_images": spec.k3s.airgap_images,
                "api_vip": _text(spec.k3s.api_vip),
                "config": dict(spec.k3s.config),
                "registries": dict(spec.k3s.registries),
                "kube_vip": _kube_vip(spec),
            },
            "control": {"store": spec.control.store, "dashboard": _dashboard(spec)},
        },
        "image": _image(spec),
        "network": {
            "interface": network.interface,
            "dhcp": network.dhcp.value,
            "subnet": str(network.subnet),
            "gateway": _text(network.gateway),
            "dns": [str(address) for address in network.dns],
            "dns_server": network.dns_server.value,
            "pool": _text(network.pool),
            "server_address": _text(network.server_address),
            "ports": {
                "http": network.ports.http,
                "control": network.ports.control,
                "netconsole": network.ports.netconsole,
                "dashboard": network.ports.dashboard,
            },
            "tftp": {"single_port": network.tftp.single_port, "workers": network.tftp.workers},
            "metrics_from": [str(one) for one in network.metrics_from],
            "bootloader_updates": network.bootloader_updates,
        },
        "nodes": [_node(node) for node in spec.nodes],
        "policy": {
            "unknown_boards": policy.unknown_boards.value,
            "first_boot": {
                "agent": policy.first_boot.agent.value,
                "server": policy.first_boot.server.value,
            },
            "certificate_life": render_duration(policy.certificate_life_s),
            "remote_run": policy.remote_run.value,
            "reimage": {
                "when_failed": policy.reimage.when_failed,
                "max_parallel": policy.reimage.max_parallel,
                "after": render_duration(policy.reimage.after_s),
                "dry_run": policy.reimage.dry_run,
                "again_after": render_duration(policy.reimage.again_after_s),
                "windows": [str(window) for window in policy.reimage.windows],
            },
            "snapshots": {
                "enabled": policy.snapshots.is_on,
                "every": render_duration(policy.snapshots.every_s),
                "keep": policy.snapshots.keep,
            },
            "join": {"batch": policy.join.batch, "slow_disk": policy.join.slow_disk.value},
        },
        "notify": [channel_document(channel) for channel in spec.notify],
    }


def image_inputs(spec: ClusterSpec) -> dict[str, Any]:
    """The declared values that the shared image depends on; nodes, network and policy are not among them.

    Files that the values point at (overlays, base, release) are hashed by whoever reads them.
    """
    document = to_document(spec)
    k3s = document["cluster"]["k3s"]
    return {
        "cluster": {"name": spec.name, "domain": spec.domain},
        "k3s": {key: k3s[key] for key in ("version", "source", "airgap_images", "api_vip", "registries")},
        "image": document["image"],
    }


def digest(values: Any) -> str:
    """SHA-256 of plain values, the same for equal values whatever the order of their keys."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _text(value: object | None) -> str | None:
    return None if value is None else str(value)


def _image(spec: ClusterSpec) -> dict[str, Any]:
    image = spec.image
    return {
        "base": _base(image.base),
        "packages": list(image.packages),
        "packages_at": image.packages_at.value,
        "overlays": [str(overlay) for overlay in image.overlays],
        "user": {
            "name": image.user.name,
            "ssh_authorized_keys": list(image.user.ssh_authorized_keys),
        },
        "timezone": image.timezone,
        "pages": image.pages.value,
    }


def _kube_vip(spec: ClusterSpec) -> dict[str, Any] | None:
    """Nothing where there is no address to answer for."""
    vip = spec.k3s.kube_vip
    if spec.k3s.api_vip is None:
        return None
    return {"enabled": vip.enabled, "image": vip.image, "interface": vip.interface}


def _dashboard(spec: ClusterSpec) -> dict[str, str] | None:
    own = spec.control.dashboard
    return None if own is None else {"certificate": str(own.certificate), "key": str(own.key)}


def _base(base: BaseRef) -> dict[str, str | None]:
    match base:
        case CatalogueBase(name):
            return {"name": name}
        case UrlBase(url, sha256):
            return {"url": url, "sha256": sha256}
        case FileBase(path, sha256):
            return {"path": str(path), "sha256": sha256}


def _node(node: NodeSpec) -> dict[str, Any]:
    return {
        "name": node.name,
        "board": node.board.yaml_name,
        "role": node.role.value,
        "mac": _text(node.mac),
        "serial": _text(node.serial),
        "address": _text(node.address),
        "disk": {
            "kind": node.disk.kind.value,
            "serial": node.disk.serial,
            "keep": list(node.disk.keep),
            "root": None if node.disk.root_mib is None else render_memory(node.disk.root_mib),
        },
        "labels": dict(node.labels),
        "taints": [str(taint) for taint in node.taints],
        "power": None if node.power is None else _power(node.power),
        "memory": None if node.memory_mib is None else render_memory(node.memory_mib),
    }


def _power(power: PowerSpec) -> dict[str, Any]:
    match power:
        case ManualPower():
            return {"driver": "manual"}
        case CommandPower():
            return {
                "driver": "command",
                "on": list(power.on),
                "off": list(power.off),
                "status": None if power.status is None else list(power.status),
                "pass_env": list(power.pass_env),
                "timeout": render_duration(power.timeout_s),
                "off_for": render_duration(power.off_s),
            }
        case TasmotaPower():
            return {
                "driver": "tasmota",
                "url": power.url,
                "output": power.output,
                "user": power.user,
                **_secret("password", power.password),
                "off_for": render_duration(power.off_s),
            }
        case ShellyPower():
            return {
                "driver": "shelly",
                "url": power.url,
                "channel": power.channel,
                "user": power.user,
                **_secret("password", power.password),
                "off_for": render_duration(power.off_s),
            }
        case SnmpPoePower():
            user = power.user
            return {
                "driver": "snmp-poe",
                "host": power.host,
                "group": power.group,
                "port": power.port,
                "udp_port": power.udp_port,
                **_secret("community", power.community),
                "user": None if user is None else user.name,
                "auth": None if user is None else user.auth.value,
                **_secret("auth_password", None if user is None else user.auth_password),
                "privacy": None if user is None else _text(user.privacy),
                **_secret("privacy_password", None if user is None else user.privacy_password),
                "off_for": render_duration(power.off_s),
            }


def _secret(key: str, place: SecretPlace | None) -> dict[str, str | None]:
    """Where it is; what it is stands in no document."""
    return {
        f"{key}_file": None if place is None else _text(place.file),
        f"{key}_env": None if place is None else place.variable,
    }


@dataclass(frozen=True, slots=True)
class EffectiveValue:
    """One value in force; `origin` is `line 12`, `line 30, defaults` or `default`."""

    key: str
    value: Any
    origin: str


def effective_values(spec: ClusterSpec, document: Document) -> Iterator[EffectiveValue]:
    """List every value in force and where it was given."""
    for key, value in _leaves(to_document(spec), ()):
        origin = "default" if value is None or value == [] else _origin(key, document)
        yield EffectiveValue(dotted(key), value, origin)


def _leaves(value: Any, key: Key) -> Iterator[tuple[Key, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, (*key, name))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*key, index))
    else:
        yield key, value


def _origin(key: Key, document: Document) -> str:
    if (line := _given_at(key, document)) is not None:
        return f"line {line}"
    if key[0] == "nodes" and (line := _given_at(("defaults", *key[2:]), document)) is not None:
        return f"line {line}, defaults"
    return "default"


def _given_at(key: Key, document: Document) -> int | None:
    """The line that gives a value, also where one word stands for a mapping (`disk: nvme`)."""
    for length in range(len(key), 0, -1):
        if document.has(key[:length]):
            found = document.value(key[:length])
            is_word = isinstance(found, str)
            return (
                document.line(key[:length]) if is_word or (length == len(key) and found is not None) else None
            )
    return None
