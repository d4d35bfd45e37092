"""What a server and an agent were told, as values with types. `load_options` is the one function here that
reads files.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.k3s_sim.node import options, yaml_subset
from lab.k3s_sim.node.errors import K3sError
from lab.k3s_sim.node.options import Options

NODE_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
"""A DNS subdomain (RFC 1123), as Kubernetes wants names."""


@dataclass(frozen=True)
class AgentSettings:
    """One node's part. Everything is below `data_dir` but the node password, which survives an uninstall."""

    node_name: str
    node_ips: tuple[str, ...]
    data_dir: Path
    node_dir: Path
    server_url: str = ""
    token: str = field(default="", repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[str, ...] = ()

    @property
    def agent_dir(self) -> Path:
        """Certificates and keys of the kubelet."""
        return self.data_dir / "agent"

    @property
    def password_file(self) -> Path:
        """The node password; /etc/rancher/node/password unless rootless."""
        return self.node_dir / "password"


@dataclass(frozen=True)
class ServerSettings:
    """A server, with the agent that runs inside it."""

    agent: AgentSettings
    https_port: int
    bind_address: str
    tls_sans: tuple[str, ...]
    token: str = field(repr=False)
    agent_token: str = field(repr=False)
    cluster_init: bool
    cluster_reset: bool
    cluster_reset_restore_path: Path | None
    disable_agent: bool
    join_url: str
    kubeconfig: Path
    kubeconfig_mode: int
    critical: Mapping[str, str] = field(default_factory=dict)
    """What all servers must share; see critical_config."""

    @property
    def server_dir(self) -> Path:
        """Tokens, certificates and the datastore."""
        return self.agent.data_dir / "server"


def load_options(command: str, argv: Sequence[str], environ: Mapping[str, str]) -> Options:
    """Read the configuration file and its drop-ins and merge them with the rest.

    Raises:
        K3sError: a file that was asked for is missing, is not readable as YAML, or a flag is unknown.
    """
    name, required = options.config_path(argv, environ)
    path = Path(name)
    drop_in_dir = Path(f"{path}.d")
    drop_ins = sorted(
        file for file in drop_in_dir.glob("*") if file.suffix in (".yaml", ".yml") and file.is_file()
    )
    documents = []
    for file in ([path] if required or path.exists() else []) + drop_ins:
        try:
            documents.append(yaml_subset.parse_mapping(file.read_text("utf-8"), str(file)))
        except OSError as error:
            raise K3sError(f"open {file}: {_reason(error)}") from error
        except ValueError as error:
            raise K3sError(str(error)) from error
    return options.resolve(command, argv, environ, documents)


def agent_settings(chosen: Options) -> AgentSettings:
    """Settings of the agent; the token file is read here, and must exist if it is named."""
    data_dir = Path(chosen.text("data-dir", options.DATA_DIR))
    root = data_dir / "agent" if chosen.switch("rootless") else Path("/")
    node_dir = root / "etc" / "rancher" / "node"
    name = (chosen.text("node-name") or socket.gethostname()).lower()
    if chosen.switch("with-node-id"):
        name = f"{name}-{_node_id(node_dir / 'id')}"
    if not NODE_NAME.fullmatch(name):
        raise K3sError(f"the node name {name!r} is not a DNS subdomain name")
    return AgentSettings(
        node_name=name,
        node_ips=_addresses(chosen.comma_items("node-ip")) or (_default_address(),),
        data_dir=data_dir,
        node_dir=node_dir,
        server_url=chosen.text("server").rstrip("/"),
        token=_secret(chosen, "token"),
        labels=dict(_label(item) for item in chosen.items("node-label")),
        taints=chosen.items("node-taint"),
    )


def server_settings(chosen: Options, critical: Mapping[str, str] | None = None) -> ServerSettings:
    """Settings of a server; `critical` is what critical_config finds in the same options."""
    agent = agent_settings(chosen)
    restored = chosen.text("cluster-reset-restore-path")
    return ServerSettings(
        agent=agent,
        https_port=_port(chosen.text("https-listen-port", str(options.HTTPS_PORT))),
        bind_address=chosen.text("bind-address"),
        tls_sans=chosen.comma_items("tls-san"),
        token=agent.token,
        agent_token=_secret(chosen, "agent-token"),
        cluster_init=chosen.switch("cluster-init"),
        cluster_reset=chosen.switch("cluster-reset"),
        cluster_reset_restore_path=Path(restored) if restored else None,
        disable_agent=chosen.switch("disable-agent"),
        join_url=agent.server_url,
        kubeconfig=Path(chosen.text("write-kubeconfig", options.KUBECONFIG)),
        kubeconfig_mode=int(chosen.text("write-kubeconfig-mode", "600"), 8),
        critical=critical or {},
    )


def _secret(chosen: Options, name: str) -> str:
    file = chosen.text(f"{name}-file")
    if not file:
        return chosen.text(name)
    try:
        return Path(file).read_text("utf-8").strip()
    except OSError as error:
        raise K3sError(f"open {file}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _node_id(file: Path) -> str:
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(secrets.token_hex(4) + "\n", "utf-8")
    return file.read_text("utf-8").strip()


def _addresses(items: Sequence[str]) -> tuple[str, ...]:
    try:
        return tuple(str(ipaddress.ip_address(item)) for item in items)
    except ValueError as error:
        raise K3sError(f"invalid node-ip: {error}") from error


def _default_address() -> str:
    """The address that the default route leaves from; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1, RFC 5737
        except OSError as error:
            raise K3sError("unable to select an IP from default routes.") from error
        return str(probe.getsockname()[0])


def _label(item: str) -> tuple[str, str]:
    key, _, value = item.partition("=")
    return key, value


def _port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise K3sError(f'invalid value "{text}" for flag -https-listen-port: parse error')
    return int(text)
