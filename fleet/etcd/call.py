"""One connection to one member of etcd: gRPC over TLS with a client certificate.

k3s serves etcd's JSON gateway to the node itself only (127.0.0.1:2382), and gRPC to the cluster (2379).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar
from urllib.parse import urlsplit

from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.protocol import H2Protocol

from fleet.etcd.errors import EtcdError, EtcdRefusedError
from fleet.etcd.messages import (
    EmptyRequest,
    HeaderResponse,
    MemberListRequest,
    MemberListResponse,
    MemberRequest,
    Request,
    SnapshotResponse,
    StatusResponse,
)
from fleet.etcd.wire import WireError
from fleet.k3s.material import ClientIdentity

CLIENT_PORT: Final = 2379
_CLUSTER: Final = "/etcdserverpb.Cluster"
_MAINTENANCE: Final = "/etcdserverpb.Maintenance"
_GONE: Final = (OSError, StreamTerminatedError, ProtocolError, WireError, TimeoutError)

_Reply = TypeVar("_Reply", covariant=True)


class _Response(Protocol[_Reply]):
    """What can be read."""

    @classmethod
    def parse(cls, data: bytes) -> _Reply:
        """The message. Raises WireError."""


class _Codec(CodecBase):
    """Our messages as gRPC's content."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:
        data: bytes = message.encode()
        return data

    def decode(self, data: bytes, message_type: Any) -> Any:
        return message_type.parse(data)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a member's clients reach it."""

    host: str
    port: int = CLIENT_PORT

    @classmethod
    def parse(cls, url: str) -> Self:
        """Of a client URL, `https://ADDRESS:2379`.

        Raises:
            EtcdError: It is no such URL: anybody who may write to etcd may say what he likes there.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if host is None or not url.startswith("https://"):
            raise EtcdError(f"a member of etcd calls itself {url[:80]!r}, https://ADDRESS:2379 is expected")
        return cls(host, port or CLIENT_PORT)

    def __str__(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


class _PromptChannel(Channel):
    """A channel that can be let go of at once.

    Its own `close` waits up to half a minute for the peer's farewell (TLS close_notify), and a frozen etcd
    says none: with a look every few seconds its connections would pile up.
    """

    _made: tuple[asyncio.Transport, ...] = ()

    async def _create_connection(self) -> H2Protocol:
        protocol = await super()._create_connection()
        # All of them: one that the peer has taken leave of (GOAWAY) is followed by another.
        self._made = (*self._made, protocol.connection._transport)
        return protocol

    async def let_go(self) -> None:
        """Close, without a farewell, and let the loop close the socket."""
        self.close()
        for transport in self._made:
            transport.abort()
        await asyncio.sleep(0)


class Connection:
    """Calls one member. Use as an async context manager; every call has a limit."""

    def __init__(self, endpoint: Endpoint, tls: ssl.SSLContext) -> None:
        self.endpoint = endpoint
        self._channel = _PromptChannel(endpoint.host, endpoint.port, ssl=tls, codec=_Codec())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.let_go()

    async def members(self, *, linearizable: bool, timeout_s: float) -> MemberListResponse:
        """Who is in the cluster; `linearizable`: as it agrees on now, else as this member believes."""
        request = MemberListRequest(linearizable)
        return await self._call(_CLUSTER, "MemberList", request, MemberListResponse, timeout_s)

    async def remove(self, member_id: int, timeout_s: float) -> MemberListResponse:
        """Take a member out. Returns who is left."""
        request = MemberRequest(member_id)
        return await self._call(_CLUSTER, "MemberRemove", request, MemberListResponse, timeout_s)

    async def status(self, timeout_s: float) -> StatusResponse:
        """What the member says of itself."""
        return await self._call(_MAINTENANCE, "Status", EmptyRequest(), StatusResponse, timeout_s)

    async def move_leader(self, member_id: int, timeout_s: float) -> None:
        """Let another member lead; only the leader can be asked. Returns when the other one leads."""
        request = MemberRequest(member_id)
        await self._call(_MAINTENANCE, "MoveLeader", request, HeaderResponse, timeout_s)

    async def snapshot(self, silence_s: float) -> AsyncIterator[SnapshotResponse]:
        """The member's data, piece by piece.

        Args:
            silence_s: How long may pass without a piece.

        Raises:
            EtcdError: It broke off.
        """
        method = UnaryStreamMethod(self._channel, f"{_MAINTENANCE}/Snapshot", EmptyRequest, SnapshotResponse)
        with self._explained("Snapshot"):
            async with method.open() as stream:
                async with asyncio.timeout(silence_s):
                    await stream.send_message(EmptyRequest(), end=True)
                while True:
                    async with asyncio.timeout(silence_s):
                        piece = await stream.recv_message()
                    if piece is None:
                        return
                    yield piece

    async def _call(
        self, service: str, name: str, request: Request, response: type[_Response[_Reply]], timeout_s: float
    ) -> _Reply:
        method: UnaryUnaryMethod[Any, Any] = UnaryUnaryMethod(
            self._channel, f"{service}/{name}", type(request), response
        )
        with self._explained(name):
            async with asyncio.timeout(timeout_s):
                reply: _Reply = await method(request)
                return reply

    @contextlib.contextmanager
    def _explained(self, name: str) -> Any:
        try:
            yield
        except GRPCError as error:
            words = str(error.message or error.status.name)
            if not words.startswith("etcdserver: "):  # gRPC's own: cut off, timed out, unavailable
                raise EtcdError(f"etcd on {self.endpoint} does not answer {name}: {words}") from error
            raise EtcdRefusedError(f"etcd on {self.endpoint} refused {name}: {words}", words) from error
        except _GONE as error:
            why = str(error) or (
                "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
            )
            raise EtcdError(f"etcd on {self.endpoint} does not answer {name}: {why}") from error


def tls_context(identity: ClientIdentity) -> ssl.SSLContext:
    """TLS with our certificate, trusting the cluster's etcd CA and nobody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=identity.ca_pem)
    context.load_cert_chain(identity.certificate_path, identity.key_path)
    context.set_alpn_protocols(["h2"])
    return context
