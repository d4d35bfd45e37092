"""Node passwords: the secret that ties a node's name to the machine that first took it. Pure.

The server keeps `$1:<salt, 8 bytes hex>:<log2 N>:<r>:<p>:<base64 of the 64-byte scrypt, unpadded>` in the
secret `kube-system/<node>.node-password.k3s`. Source: observed on k3s 1.21 and 1.33.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

SECRET_TYPE = "k3s.cattle.io/node-password"
_LOG2_N, _R, _P, _KEY_BYTES, _SALT_BYTES = 15, 8, 1, 64, 8
_MAX_MEMORY_BYTES = 64 * 2**20
"""scrypt with these numbers needs 32 MiB; Python's own limit is just below that."""

_HASH = re.compile(r"\$1:([0-9a-f]+):(\d+):(\d+):(\d+):([A-Za-z0-9+/]+)")


class HashMismatchError(ValueError):
    """The password is not the one that was hashed (in the words of k3s), or the stored hash is unreadable."""


def secret_name(node: str) -> str:
    """Name of the secret in kube-system."""
    return f"{node}.node-password.k3s".lower()


def create_hash(password: str, salt: bytes) -> str:
    """Hash a node password with a fresh 8-byte salt."""
    if len(salt) != _SALT_BYTES:
        raise ValueError(f"the salt has {len(salt)} bytes, it must have {_SALT_BYTES}")
    key = _scrypt(password, salt, _LOG2_N, _R, _P)
    return f"$1:{salt.hex()}:{_LOG2_N}:{_R}:{_P}:{base64.b64encode(key).decode().rstrip('=')}"


def verify_hash(stored: str, password: str) -> None:
    """Raise HashMismatchError unless `password` was hashed to `stored`."""
    match = _HASH.fullmatch(stored)
    if match is None:
        raise HashMismatchError("hash format invalid")
    log2_n, r, p = (int(match[index]) for index in (2, 3, 4))
    if not 0 < log2_n <= _LOG2_N or (r, p) != (_R, _P):
        # k3s takes any; higher costs would let a secret's author exhaust the memory of a virtual board.
        raise HashMismatchError("hash format invalid")
    expected = base64.b64decode(match[5] + "=" * (-len(match[5]) % 4))
    if not hmac.compare_digest(expected, _scrypt(password, bytes.fromhex(match[1]), log2_n, r, p)):
        raise HashMismatchError("hash does not match")


def _scrypt(password: str, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(
        password.encode(), salt=salt, n=1 << log2_n, r=r, p=p, dklen=_KEY_BYTES, maxmem=_MAX_MEMORY_BYTES
    )
