"""Text for a cluster's images and nodes, from the jinja2 templates in ``cloud-init/<dialect>/``; what the
dialects share is in ``cloud-init/common/``.

Values go into YAML through the ``yaml`` filter, which writes JSON (every JSON value is a YAML value), so no
value can change the structure of a document.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final

import jinja2

from fleet.spec.model import ClusterSpec, NodeSpec, PackagesAt, RemoteRun
from imagebuilder.delta import NodeValues
from imagebuilder.resources import data_dir

NODE_JSON_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class UserData:
    """What the user-data template shows; the same for all nodes, nothing secret."""

    cluster: str
    user: str
    ssh_authorized_keys: tuple[str, ...]
    timezone: str
    packages: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeContext:
    """What the templates of a node's own files show. ``address`` carries its prefix length; None: DHCP."""

    instance_id: str
    hostname: str
    fqdn: str
    connection_uuid: str
    mac: str | None
    address: str | None
    gateway: str | None
    dns: tuple[str, ...]
    domain: str


NODE_TEMPLATES: Final = {
    "meta-data": "common/meta-data.j2",
    "network-config": "common/network-config.j2",
    "hostname": "raspios-bookworm/hostname.j2",
    "hosts": "raspios-bookworm/hosts.j2",
    "network-connection": "raspios-bookworm/network-connection.j2",
}
"""Slot → template of its content."""


def render_user_data(spec: ClusterSpec, templates: str) -> str:
    """cloud-init's user-data for all nodes of the cluster.

    Args:
        spec: the cluster.
        templates: the dialect's folder.
    """
    context = UserData(
        cluster=spec.name,
        user=spec.image.user.name,
        ssh_authorized_keys=spec.image.user.ssh_authorized_keys,
        timezone=spec.image.timezone,
        packages=spec.image.packages if spec.image.packages_at is PackagesAt.FIRST_BOOT else (),
    )
    return _render(f"{templates}/user-data.j2", asdict(context))


def node_values(
    spec: ClusterSpec,
    node: NodeSpec,
    *,
    control_urls: Sequence[str],
    ca_pem: str,
    ticket: str,
    disk_signature: int,
    instance_id: str,
) -> NodeValues:
    """Everything that makes an image this node's own.

    Args:
        spec: the cluster.
        node: one of its nodes.
        control_urls: where the agent finds the control server, best first.
        ca_pem: certificate of the control CA, which the agent trusts and nothing else.
        ticket: single-use enrolment secret, 64 hex digits.
        disk_signature: see ``imagebuilder.delta.disk_signature``.
        instance_id: unlike that of any earlier installation of the node.
    """
    fqdn = spec.fqdn(node)
    context = NodeContext(
        instance_id=instance_id,
        hostname=node.name,
        fqdn=fqdn,
        connection_uuid=str(uuid.uuid5(uuid.NAMESPACE_DNS, fqdn)),
        mac=str(node.mac) if node.mac else None,
        address=f"{node.address}/{spec.network.subnet.prefixlen}" if node.address else None,
        gateway=str(spec.network.gateway) if spec.network.gateway else None,
        dns=tuple(str(server) for server in spec.network.dns),
        domain=spec.domain,
    )
    node_json = {
        "version": NODE_JSON_VERSION,
        "cluster": spec.name,
        "node": node.name,
        "role": node.role.value,
        "serial": str(node.serial) if node.serial else None,
        "control_urls": list(control_urls),
        "ca_pem": ca_pem,
        "ticket": ticket,
    }
    if spec.policy.remote_run is RemoteRun.ON:
        node_json["remote_run"] = True
    return NodeValues(
        name=node.name,
        fqdn=fqdn,
        disk_signature=disk_signature,
        instance_id=instance_id,
        files={
            **{name: _render(template, asdict(context)) for name, template in NODE_TEMPLATES.items()},
            "node-json": json.dumps(node_json, indent=1) + "\n",
        },
    )


def _render(template: str, context: dict[str, Any]) -> str:
    return _environment().get_template(template).render(context)


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_dir("cloud-init")),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # YAML, not HTML; the yaml filter quotes
    )
    environment.filters["yaml"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment
