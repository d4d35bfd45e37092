"""What a server keeps below <data-dir>/server besides its data: authorities, join tokens, leaf certificates,
and the administrator's kubeconfig.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.k3s_sim.node import certificates, tokens
from lab.k3s_sim.node.auth import AGENT_GROUP, MASTERS_GROUP, SERVER_GROUP
from lab.k3s_sim.node.certificates import Authority, Profile
from lab.k3s_sim.node.client import KeyPair
from lab.k3s_sim.node.errors import K3sError
from lab.k3s_sim.node.files import write_atomically
from lab.k3s_sim.node.settings import ServerSettings

AUTHORITIES = ("server-ca", "client-ca", "request-header-ca")
_ALWAYS_NAMED = (
    "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
    "localhost", "127.0.0.1", "::1", "10.43.0.1",
)  # fmt: skip
OTHER_TOKEN = "bootstrap data already found and encrypted with different token"


@dataclass(frozen=True)
class Passwords:
    """The secrets behind the two join tokens."""

    server: str = field(repr=False)
    agent: str = field(repr=False)


def ensure_authorities(tls: Path, names: Sequence[str]) -> None:
    """Keep authorities that were put here before the first start; make the ones that are missing.

    Raises:
        K3sError: a certificate without its key, or a key without its certificate.
    """
    for name in names:
        authority = Authority.in_directory(tls, name)
        found = authority.certificate.exists(), authority.key.exists()
        if found == (False, False):
            certificates.create_authority(authority, f"k3s-{name.replace('/', '-')}@{int(time.time())}")
        elif not all(found):
            raise K3sError(f"{authority.certificate} and {authority.key} must be given together")


def ensure_passwords(settings: ServerSettings) -> Passwords:
    """The secrets of the tokens: as set, as kept, or new. Writes the password and token files.

    Raises:
        K3sError: another token than the one that this server began with.
    """
    directory = settings.server_dir
    passwd = directory / "cred" / "passwd"
    kept = parse_passwd(passwd.read_text("utf-8")) if passwd.exists() else {}
    server = token_password(settings.token) or kept.get("server") or secrets.token_hex(16)
    if kept.get("server", server) != server:
        raise K3sError(OTHER_TOKEN)
    agent = token_password(settings.agent_token) or kept.get("node") or server
    write_atomically(passwd, render_passwd(server, agent).encode())
    cacerts = (directory / "tls" / "server-ca.crt").read_bytes()
    token_file, agent_file = directory / "token", directory / "agent-token"
    write_atomically(token_file, f"{tokens.format_token(cacerts, 'server', server)}\n".encode())
    _link(directory / "node-token", token_file)
    if agent == server:
        _link(agent_file, token_file)
    else:
        agent_file.unlink(missing_ok=True)
        write_atomically(agent_file, f"{tokens.format_token(cacerts, 'node', agent)}\n".encode())
    return Passwords(server, agent)


def token_password(token: str) -> str:
    """The secret part of a token that the settings give, which may be short or full."""
    if not token:
        return ""
    try:
        parsed = tokens.parse_token(token)
    except tokens.TokenError as error:
        raise K3sError(str(error)) from error
    if parsed.bootstrap:
        raise K3sError(
            "failed to normalize server token; must be in format "
            "K10<CA-HASH>::<USERNAME>:<PASSWORD> or <PASSWORD>"
        )
    return parsed.password


def render_passwd(server: str, agent: str) -> str:
    """The password file as k3s keeps it: password, user, user id, groups."""
    return f"{agent},node,node,{AGENT_GROUP}\n{server},server,server,{SERVER_GROUP}\n"


def parse_passwd(text: str) -> dict[str, str]:
    """Passwords by user; from the right, because a password may hold a comma."""
    rows = (line.rsplit(",", 3) for line in text.splitlines())
    return {user: password for password, user, _, _ in rows}


def admin_pair(tls: Path) -> KeyPair:
    """The administrator's certificate and key."""
    return KeyPair(tls / "client-admin.crt", tls / "client-admin.key")


def issue_certificates(settings: ServerSettings) -> None:
    """New leaves at every start: their names may have changed, and they never get old."""
    agent, tls = settings.agent, settings.server_dir / "tls"
    names = (*_ALWAYS_NAMED, agent.node_name, *agent.node_ips, *settings.tls_sans)
    serving = Profile("k3s", ("k3s",), server=True, alternative_names=tuple(dict.fromkeys(names)))
    server_ca, client_ca = (Authority.in_directory(tls, name) for name in ("server-ca", "client-ca"))
    certificates.issue(server_ca, serving, tls / "serving.crt", tls / "serving.key")
    admin = Profile("system:admin", (MASTERS_GROUP,), client=True)
    pair = admin_pair(tls)
    certificates.issue(client_ca, admin, pair.certificate, pair.key)


def write_kubeconfig(settings: ServerSettings, url: str) -> None:
    """The administrator's kubeconfig; JSON, which every reader of YAML reads."""
    tls = settings.server_dir / "tls"

    def encoded(file: Path) -> str:
        return base64.b64encode(file.read_bytes()).decode()

    pair = admin_pair(tls)
    user = {
        "client-certificate-data": encoded(pair.certificate),
        "client-key-data": encoded(pair.key),
    }
    cluster = {"certificate-authority-data": encoded(tls / "server-ca.crt"), "server": url}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "default",
        "clusters": [{"name": "default", "cluster": cluster}],
        "contexts": [{"name": "default", "context": {"cluster": "default", "user": "default"}}],
        "users": [{"name": "default", "user": user}],
    }
    write_atomically(settings.kubeconfig, json.dumps(config, indent=2).encode() + b"\n")
    settings.kubeconfig.chmod(settings.kubeconfig_mode)


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)
