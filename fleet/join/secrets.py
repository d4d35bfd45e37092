"""The secrets of one join as Kubernetes objects: bootstrap tokens and node passwords. Pure.

A bootstrap token is derived, not stored: from the cluster's server token, the node and the number of its
join material. The same material gives the same token, so an answer that was lost is given again; the next
material has another. It lives in the cluster as a secret from the moment when a node may join until it is
Ready, or until ten minutes have passed since the node asked for it last.

A node password ties a name to a node: whoever joins under that name has to know it. Made before the node
joins, it binds the join token to one name, and a node that is installed again is known again.

k3s hashes node passwords with scrypt, at a cost for what people think up: 32 MiB and a tenth of a second.
These are 128 random bits, which nobody guesses however little a guess costs, so ours costs one MiB. k3s takes
the parameters of a check from the hash itself.

Source: k3s `pkg/nodepassword`, `pkg/authenticator/hash/scrypt.go` (`VerifyHash`); Kubernetes "Bootstrap
    Tokens". The hash was accepted by k3s v1.21.3, and a wrong password refused with 403.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from fleet.k3s.versions import Feature, K3sVersion, has
from fleet.secret import Secret

NAMESPACE: Final = "kube-system"
TOKEN_TTL_S: Final = 600.0
TOKEN_RENEW_BEFORE_S: Final = 240.0
"""A node that asks again this late in a token's life gets more time: its join takes minutes."""
OWNER_LABEL: Final = "app.kubernetes.io/managed-by"
OWNER: Final = "bramble"
NODE_LABEL: Final = "bramble.dev/node"
TOKEN_TYPE: Final = "bootstrap.kubernetes.io/token"
_CONTEXT: Final = b"bramble k3s bootstrap token v1\0"
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_ID_LENGTH, _SECRET_LENGTH = 6, 16
_AGENT_GROUP: Final = "system:bootstrappers:k3s:default-node-token"

_SCRYPT_LOG_N, _SCRYPT_R, _SCRYPT_P, _SCRYPT_LENGTH = 10, 8, 1, 64
_MAX_LOG_N: Final = 15
"""Of a hash that is looked at: what k3s itself writes, and what was made here before."""
_SCRYPT_MEMORY: Final = 64 * 2**20
"""OpenSSL's own limit is 32 MiB, which the costliest hash needs to the last byte and a little more."""
SALT_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class BootstrapToken:
    """`<id>.<secret>`: the id is no secret, it names the object."""

    id: str
    secret: str = field(repr=False)

    @property
    def object_name(self) -> str:
        return f"bootstrap-token-{self.id}"

    @property
    def text(self) -> Secret:
        return Secret(f"{self.id}.{self.secret}")


def bootstrap_token(key: Secret, node_uuid: str, material: int) -> BootstrapToken:
    """The token of one node's join material; `key` is the cluster's server token."""
    message = _CONTEXT + f"{node_uuid}\0{material}".encode()
    digest = hmac.new(key.reveal().encode(), message, hashlib.sha512).digest()
    number = int.from_bytes(digest, "big")
    letters = []
    for _ in range(_ID_LENGTH + _SECRET_LENGTH):
        number, index = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[index])
    text = "".join(letters)
    return BootstrapToken(text[:_ID_LENGTH], text[_ID_LENGTH:])


def bootstrap_token_object(token: BootstrapToken, node: str, expires: float) -> dict[str, Any]:
    """The secret that makes the token valid until `expires` (UTC seconds), for joining and nothing else."""
    until = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": token.object_name,
            "namespace": NAMESPACE,
            "labels": {OWNER_LABEL: OWNER, NODE_LABEL: node},
        },
        "type": TOKEN_TYPE,
        "data": _encoded(
            {
                "token-id": token.id,
                "token-secret": token.secret,
                "expiration": until,
                "usage-bootstrap-authentication": "true",
                "auth-extra-groups": _AGENT_GROUP,
                "description": f"Bramble: {node} joins",
            }
        ),
    }


def expires_at(secret: Mapping[str, Any]) -> float:
    """When a bootstrap token ends, UTC seconds; 0 where the object does not say it in a known form."""
    try:
        text = base64.b64decode(secret["data"]["expiration"]).decode()
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except (KeyError, TypeError, ValueError):
        return 0.0


def node_password_name(node: str) -> str:
    return f"{node.lower()}.node-password.k3s"


def node_password_object(
    node: str, password: Secret, salt: bytes, version: K3sVersion | None
) -> dict[str, Any]:
    """The secret with which k3s checks the password of a node that joins under this name."""
    typed = has(version, Feature.TYPED_NODE_PASSWORDS)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": node_password_name(node),
            "namespace": NAMESPACE,
            "labels": {OWNER_LABEL: OWNER, NODE_LABEL: node},
        },
        "type": "k3s.cattle.io/node-password" if typed else "Opaque",
        "immutable": True,
        "data": _encoded({"hash": hash_password(password, salt)}),
    }


def hash_password(password: Secret, salt: bytes) -> str:
    """`$1:<salt, hex>:<log2 N>:<r>:<p>:<unpadded base64>`, as k3s writes it. Takes milliseconds and 1 MiB."""
    digest = _scrypt(password.reveal().encode(), salt, _SCRYPT_LOG_N, _SCRYPT_R, _SCRYPT_P)
    text = base64.b64encode(digest).decode().rstrip("=")
    return f"$1:{salt.hex()}:{_SCRYPT_LOG_N}:{_SCRYPT_R}:{_SCRYPT_P}:{text}"


def accepts_password(secret: Mapping[str, Any], password: Secret) -> bool:
    """Whether k3s would accept the password by this secret; False too where its form is not known.

    A hash of k3s' own takes about 0.1 s and 32 MiB.
    """
    try:
        text = base64.b64decode(secret["data"]["hash"]).decode()
        version, salt, log_n, r, p, expected = text.split(":")
        if version != "$1" or (int(r), int(p)) != (_SCRYPT_R, _SCRYPT_P) or not 0 < int(log_n) <= _MAX_LOG_N:
            return False
        digest = _scrypt(password.reveal().encode(), bytes.fromhex(salt), int(log_n), int(r), int(p))
    except (KeyError, TypeError, ValueError):
        return False
    return hmac.compare_digest(base64.b64encode(digest).decode().rstrip("="), expected)


def _scrypt(password: bytes, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(
        password, salt=salt, n=1 << log_n, r=r, p=p, dklen=_SCRYPT_LENGTH, maxmem=_SCRYPT_MEMORY
    )


def _encoded(values: Mapping[str, str]) -> dict[str, str]:
    return {key: base64.b64encode(text.encode()).decode() for key, text in values.items()}
