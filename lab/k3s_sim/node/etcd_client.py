"""etcd over its JSON gateway: keys and values, compare-and-swap, watches, members. Standard library only.

Source: etcd 3.5 documentation, "Why gRPC gateway" (paths and encodings), measured on etcd 3.5.1: numbers of
64 bits come as text, and fields that are zero or false are left out.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT_S = 9.0
"""Of one call: etcd would wait 15 s for a leader, and callers of ours wait 10 s."""
_DIAL_S = 2.0

TOO_MANY_LEARNERS = "etcdserver: too many learner members in cluster"
UNHEALTHY = "etcdserver: unhealthy cluster"
MEMBER_NOT_FOUND = "etcdserver: member not found"


class EtcdError(Exception):
    """etcd refused, in its own words, or did not answer (`answered` is false)."""

    def __init__(self, message: str, answered: bool = True) -> None:
        super().__init__(message)
        self.answered = answered


class CompactedError(Exception):
    """The wanted revision is no longer kept."""


@dataclass(frozen=True)
class EtcdTls:
    """Whom to trust, and who we are."""

    ca: Path
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """TLS for one client."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.ca)
        context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(frozen=True)
class Member:
    """One member. A learner that has not started yet has no name and no client URLs."""

    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool

    @classmethod
    def parse(cls, item: Mapping[str, Any]) -> Member:
        """As /v3/cluster/member/list and k3s's /db/info have it."""
        return cls(
            int(item.get("ID", 0)), str(item.get("name", "")),
            tuple(item.get("peerURLs") or ()), tuple(item.get("clientURLs") or ()),
            bool(item.get("isLearner", False)),
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """As k3s's /db/info has it: numbers are numbers there."""
        document: dict[str, Any] = {"ID": self.id, "name": self.name, "peerURLs": list(self.peer_urls)}
        document["clientURLs"] = list(self.client_urls)
        return {**document, "isLearner": True} if self.is_learner else document

    @property
    def node_name(self) -> str:
        """A member is named after its node, with a hyphen and eight hex digits behind."""
        head, hyphen, _ = self.name.rpartition("-")
        return head if hyphen and len(head) > 1 else self.name

    @property
    def hosts(self) -> tuple[str, ...]:
        """The addresses of its peer URLs."""
        return tuple(urllib.parse.urlsplit(url).hostname or "" for url in self.peer_urls)


@dataclass(frozen=True)
class Status:
    """What a member says of itself."""

    member_id: int
    leader: int
    is_learner: bool
    applied_index: int
    version: str


@dataclass(frozen=True)
class KeyValue:
    """One key as of one revision."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True)
class Event:
    """One change: the new state of a key, or the last one of a key that was deleted."""

    is_delete: bool
    is_new: bool
    state: KeyValue


class EtcdClient:
    """Talks to the first endpoint that answers. Safe to use from several threads."""

    def __init__(self, endpoints: Sequence[str], tls: EtcdTls) -> None:
        self._endpoints = tuple(endpoints)
        self._context = tls.context()
        self._idle: list[tuple[str, http.client.HTTPSConnection]] = []
        self._lock = threading.Lock()

    def call(self, path: str, body: Mapping[str, Any], timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        """One call.

        Raises:
            EtcdError: refused, or nobody answered.
        """
        causes = []
        for endpoint, connection in self._connections(timeout_s):
            try:
                status, answer = _exchange(connection, path, body, timeout_s)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if isinstance(error, TimeoutError):
                    raise EtcdError("context deadline exceeded", answered=False) from error
                causes.append(f"{endpoint}: {error or type(error).__name__}")
                continue
            with self._lock:
                self._idle.append((endpoint, connection))
            if status != 200:
                raise EtcdError(str(answer.get("message") or answer.get("error") or f"HTTP {status}"))
            return answer
        raise EtcdError("; ".join(dict.fromkeys(causes)) or "no endpoints available", answered=False)

    def _connections(self, timeout_s: float) -> Iterator[tuple[str, http.client.HTTPSConnection]]:
        """An idle connection if there is one (it may have been closed meanwhile), then new ones."""
        while True:
            with self._lock:
                kept = self._idle.pop() if self._idle else None
            if kept is None:
                break
            yield kept
        for endpoint in self._endpoints:
            yield endpoint, self._connect(endpoint, min(timeout_s, _DIAL_S))

    def _connect(self, endpoint: str, timeout_s: float) -> http.client.HTTPSConnection:
        url = urllib.parse.urlsplit(endpoint)
        return http.client.HTTPSConnection(
            url.hostname or "", url.port or 2379, timeout=timeout_s, context=self._context
        )

    def close(self) -> None:
        """Close what is idle: an etcd that is to end waits for its connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    def get(self, key: str) -> KeyValue | None:
        """One key, linearizable."""
        found = self.call("/v3/kv/range", {"key": _b64(key)}).get("kvs") or ()
        return _key_value(found[0]) if found else None

    def get_prefix(self, prefix: str) -> tuple[list[KeyValue], int]:
        """All keys below a prefix in their order, and the revision they are as of."""
        body = {"key": _b64(prefix), "range_end": _b64(_behind(prefix))}
        answer = self.call("/v3/kv/range", body)
        return [_key_value(item) for item in answer.get("kvs") or ()], int(answer["header"]["revision"])

    def put(self, key: str, value: bytes) -> None:
        """Write without asking what was there."""
        self.call("/v3/kv/put", {"key": _b64(key), "value": base64.b64encode(value).decode()})

    def swap(self, key: str, value: bytes | None, expected: int) -> int | None:
        """Write (None: delete) if the key was last changed at revision `expected` (0: does not exist).

        Returns the new revision, or None if it was not so.
        """
        name = _b64(key)
        comparison = {"key": name, "target": "MOD", "result": "EQUAL", "mod_revision": str(expected)}
        if value is None:
            operation: dict[str, Any] = {"request_delete_range": {"key": name}}
        else:
            operation = {"request_put": {"key": name, "value": base64.b64encode(value).decode()}}
        answer = self.call("/v3/kv/txn", {"compare": [comparison], "success": [operation]})
        return int(answer["header"]["revision"]) if answer.get("succeeded") else None

    def watch(self, prefix: str, start_revision: int, wait_s: float) -> Iterator[list[Event]]:
        """What happens below a prefix from a revision on, for `wait_s` seconds.

        Raises:
            CompactedError: the revision is no longer kept.
            EtcdError: nobody answered, or the stream broke.
        """
        body = {"key": _b64(prefix), "range_end": _b64(_behind(prefix)), "prev_kv": True,
                "start_revision": str(start_revision)}  # fmt: skip
        connection = self._connect(self._endpoints[0], _DIAL_S)
        deadline = time.monotonic() + wait_s
        try:
            _send(connection, "/v3/watch", {"create_request": body}, wait_s)
            channel = connection.sock
            for line in connection.getresponse():
                channel.settimeout(max(0.001, deadline - time.monotonic()))
                result = json.loads(line).get("result") or {}
                if "compact_revision" in result:
                    raise CompactedError
                if result.get("canceled"):
                    raise EtcdError(str(result.get("cancel_reason", "the watch was cancelled")))
                events = [_event(item) for item in result.get("events") or ()]
                if events:
                    yield events
        except TimeoutError:
            return
        except (OSError, http.client.HTTPException) as error:
            raise EtcdError(f"the watch broke: {error}", answered=False) from error
        finally:
            connection.close()

    def status(self, timeout_s: float = _DIAL_S) -> Status:
        """The member that answers, about itself; it needs no leader for that."""
        answer = self.call("/v3/maintenance/status", {}, timeout_s)
        return Status(
            int(answer["header"]["member_id"]), int(answer.get("leader", 0)),
            bool(answer.get("isLearner", False)), int(answer.get("raftAppliedIndex", 0)),
            str(answer.get("version", "")),
        )  # fmt: skip

    def members(self, timeout_s: float = TIMEOUT_S) -> list[Member]:
        """All members, linearizable."""
        answer = self.call("/v3/cluster/member/list", {"linearizable": True}, timeout_s)
        return [Member.parse(item) for item in answer.get("members") or ()]

    def add_learner(self, peer_url: str, timeout_s: float) -> None:
        """Add a member that does not vote yet."""
        self.call("/v3/cluster/member/add", {"peerURLs": [peer_url], "isLearner": True}, timeout_s)

    def promote(self, member_id: int) -> None:
        """Let a learner vote."""
        self.call("/v3/cluster/member/promote", {"ID": str(member_id)})

    def remove(self, member_id: int, timeout_s: float) -> None:
        """Remove a member."""
        self.call("/v3/cluster/member/remove", {"ID": str(member_id)}, timeout_s)

    def update_peer_url(self, member_id: int, peer_url: str) -> None:
        """Correct a member's address."""
        self.call("/v3/cluster/member/update", {"ID": str(member_id), "peerURLs": [peer_url]})


def _exchange(
    connection: http.client.HTTPSConnection, path: str, body: Mapping[str, Any], timeout_s: float
) -> tuple[int, dict[str, Any]]:
    _send(connection, path, body, timeout_s)
    response = connection.getresponse()
    content = response.read()
    try:
        answer = json.loads(content)
    except ValueError:
        answer = {"message": content.decode(errors="replace").strip()}
    return response.status, answer


def _send(
    connection: http.client.HTTPSConnection, path: str, body: Mapping[str, Any], timeout_s: float
) -> None:
    if connection.sock is None:
        connection.connect()
    connection.sock.settimeout(timeout_s)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _behind(prefix: str) -> str:
    """The first key behind all that begin with `prefix`, whose last character is ASCII."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _key_value(item: Mapping[str, Any]) -> KeyValue:
    key = base64.b64decode(item["key"]).decode()
    return KeyValue(key, base64.b64decode(item.get("value", "")), int(item.get("mod_revision", 0)))


def _event(item: Mapping[str, Any]) -> Event:
    changed = _key_value(item["kv"])
    if item.get("type") == "DELETE":
        last = _key_value(item.get("prev_kv") or item["kv"])
        return Event(True, False, KeyValue(changed.key, last.value, changed.revision))
    return Event(False, item["kv"].get("version") == "1", changed)
