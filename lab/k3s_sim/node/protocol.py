"""Words of the supervisor's join protocol that both of its ends use."""

from __future__ import annotations

from collections.abc import Mapping

PREFIX = "/v1-k3s/"
NAME_HEADER = "k3s-Node-Name"
PASSWORD_HEADER = "k3s-Node-Password"
ADDRESS_HEADER = "k3s-Node-IP"
"""Comma-separated addresses."""

BOOTSTRAP_FILES: Mapping[str, str] = {
    "ServerCA": "tls/server-ca.crt",
    "ServerCAKey": "tls/server-ca.key",
    "ClientCA": "tls/client-ca.crt",
    "ClientCAKey": "tls/client-ca.key",
    "RequestHeaderCA": "tls/request-header-ca.crt",
    "RequestHeaderCAKey": "tls/request-header-ca.key",
    "ETCDPeerCA": "tls/etcd/peer-ca.crt",
    "ETCDPeerCAKey": "tls/etcd/peer-ca.key",
    "ETCDServerCA": "tls/etcd/server-ca.crt",
    "ETCDServerCAKey": "tls/etcd/server-ca.key",
    "ServiceKey": "tls/service.key",
    "PasswdFile": "cred/passwd",
}
"""What server-bootstrap hands out where it is there: name in the answer, file below <data-dir>/server."""
