"""Settings that all servers of a cluster must share, and the check that a joining server makes of them.

It asks an older server for the agents' configuration, as an agent: with its own agent token, or with the
server token where it was given none. So a server that lacks the cluster's agent token can not join either.
Source: k3s `pkg/cluster/bootstrap.go` and the documentation of the server's "critical" flags.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from lab.k3s_sim.node import log, tokens
from lab.k3s_sim.node.client import Refusal, validate
from lab.k3s_sim.node.errors import K3sError
from lab.k3s_sim.node.options import Options
from lab.k3s_sim.node.protocol import PREFIX

_VALUES: Mapping[str, tuple[str, str]] = {
    "cluster-cidr": ("ClusterIPRange", "10.42.0.0/16"),
    "cluster-dns": ("ClusterDNS", "10.43.0.10"),
    "cluster-domain": ("ClusterDomain", "cluster.local"),
    "disable-cloud-controller": ("DisableCCM", "false"),
    "disable-helm-controller": ("DisableHelmController", "false"),
    "disable-network-policy": ("DisableNPC", "false"),
    "egress-selector-mode": ("EgressSelectorMode", "agent"),
    "embedded-registry": ("EmbeddedRegistry", "false"),
    "flannel-backend": ("FlannelBackend", "vxlan"),
    "flannel-external-ip": ("FlannelExternalIP", "false"),
    "flannel-ipv6-masq": ("FlannelIPv6Masq", "false"),
    "secrets-encryption": ("EncryptSecrets", "false"),
    "service-cidr": ("ServiceIPRange", "10.43.0.0/16"),
}
"""Flag, the name of its value in the agents' configuration, and its default."""


def critical_values(chosen: Options) -> dict[str, str]:
    """The values of one server, by their names in the agents' configuration."""
    values = {name: chosen.text(flag, default) for flag, (name, default) in _VALUES.items()}
    disabled = ",".join(chosen.comma_items("disable")).split(",")
    return {**values, "DisableServiceLB": str("servicelb" in disabled).lower()}


def require_same_configuration(url: str, agent_token: str, server_token: str, own: Mapping[str, str]) -> None:
    """Compare our values with those of the server at `url`.

    Raises:
        K3sError: they differ, or the server does not tell.
    """
    try:
        server = validate(url, tokens.parse_token(agent_token or server_token).for_user("node"))
        theirs = json.loads(server.require(f"{PREFIX}config"))
    except (*Refusal, ValueError) as error:
        raise K3sError(f"failed to validate server configuration: {error}") from error
    differing = sorted(name for name, value in own.items() if theirs.get(name) != value)
    if differing:
        for name in differing:
            log.error(f"mismatched {name}: {theirs.get(name)} on {url}, {own[name]} here")
        raise K3sError(
            "failed to validate server configuration: critical configuration value mismatch between servers"
        )
