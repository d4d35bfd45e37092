"""Checks the signature of orders with the `openssl` command: Python's standard library can not."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TypeVar

from agent.commands import CommandError, Runner
from agent.errors import AgentError
from agent.orders import SignedOrder, signed_bytes
from agent.trusted import TrustedAuthorities, split_bundle
from agent.wire import decode

Message = TypeVar("Message")


class OrderVerifier:
    """Checks orders for one node against the control CAs that it trusts."""

    def __init__(self, run: Runner, authorities: TrustedAuthorities, node: str) -> None:
        self._run = run
        self._authorities = authorities
        self._node = node
        self._keys: dict[str, bytes] = {}

    def open(self, order: SignedOrder, kind: str, message: type[Message]) -> Message:
        """The message of an order that is sound.

        Raises:
            AgentError: it is not of this kind, or not signed for this node by the control CA; openssl is
                missing.
        """
        if order.kind != kind:
            raise _refused(f"it is of kind {order.kind!r}, {kind!r} was asked for")
        body = order.body.encode()
        try:
            signature = bytes.fromhex(order.signature)
        except ValueError as exc:
            raise _refused("its signature is not hex") from exc
        self._verify(signed_bytes(kind, self._node, body), signature)
        try:
            return decode(message, body, newer_peer=True)
        except ValueError as exc:
            raise _refused(f"it is not understood: {exc}") from exc

    def _verify(self, data: bytes, signature: bytes) -> None:
        for certificate in split_bundle(self._authorities.pem):
            if self._is_signed_by(certificate, data, signature):
                return
        raise _refused("the control CA did not sign it for this node")

    def _is_signed_by(self, certificate: str, data: bytes, signature: bytes) -> bool:
        if certificate not in self._keys:
            argv = ["openssl", "x509", "-noout", "-pubkey"]
            self._keys[certificate] = self._run(argv, input_bytes=certificate.encode()).stdout
        with _in_memory(self._keys[certificate]) as key, _in_memory(signature) as proof:
            argv = ["openssl", "dgst", "-sha256", "-verify", key, "-signature", proof]
            try:
                self._run(argv, input_bytes=data)
            except CommandError as exc:
                if exc.returncode is None:
                    raise
                return False
        return True


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """A path under which a command finds `content`; no disk, full or read-only, has a part in it."""
    fd = os.memfd_create("bramble", os.MFD_CLOEXEC)
    try:
        os.write(fd, content)
        yield f"/proc/{os.getpid()}/fd/{fd}"
    finally:
        os.close(fd)


def _refused(why: str) -> AgentError:
    return AgentError(
        f"an order was refused: {why}",
        "Another cluster's server may answer, or this is a bug of the control server; nothing was done.",
    )
