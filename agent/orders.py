"""Orders of the control server: numbered, for one node, signed with the key of the control CA.

TLS proves who answers; the signature proves who decided. An order can so lie on a disk, pass a second server
or a cache, and still only the holder of the CA's key can have given it. What is signed are the bytes of the
body as they were sent, so an agent can check an order that has parts which it does not know yet.

Signed bytes: context ‖ kind ‖ 0 ‖ node ‖ 0 ‖ body. ECDSA on P-256 with SHA-256, DER, hex. A certificate
begins with an ASN.1 sequence (0x30) and the context does not, so no order can be taken for one.
"""

from __future__ import annotations

from dataclasses import dataclass

CONTEXT = b"bramble order v1\0"
DESIRED, EEPROM, UPDATE, ERRAND, REBOOT = "desired", "eeprom", "update", "errand", "reboot"
"""Kinds: an order of one can not be taken for one of another."""


@dataclass(frozen=True)
class SignedOrder:
    """`body` is the JSON of the message that `kind` names."""

    kind: str
    body: str
    signature: str


@dataclass(frozen=True)
class AgentOrder:
    """Run this release of the agent from now on. Numbers grow; each is carried out once."""

    number: int
    version: str
    sha256: str
    """Of the zipapp; it is at /v1/node/agent/<sha256>."""
    size_bytes: int
    allow_downgrade: bool = False


def signed_bytes(kind: str, node: str, body: bytes) -> bytes:
    """What the signature is over."""
    return CONTEXT + kind.encode() + b"\0" + node.encode() + b"\0" + body
