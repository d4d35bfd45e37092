"""The client between two threads: the reporter's last report and the installer's last word."""

from __future__ import annotations

import http.client
import io
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.client import ControlClient, Endpoint, PinnedTrust, Unreachable, Untrusted, _Connection
from agent.errors import AgentError
from agent.installer.stream import StreamBroken, fetch_small
from agent.protocol import Desired, InstallProgress, InstallStep

DEADLINE_S = 10.0
OVERLAP_S = 0.2
"""How long a call waits for another to come between; without the lock that takes microseconds."""


def test_calls_of_two_threads_follow_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    client = ControlClient(("https://control.invalid",), PinnedTrust("00" * 32))
    both_started = threading.Barrier(2)
    inside = threading.Semaphore(1)
    overlap = threading.Event()
    paths: list[str] = []

    def exchange(_connection: object, _method: str, path: str, _body: bytes | None, _limit: int) -> bytes:
        if not inside.acquire(blocking=False):
            overlap.set()
            return b"{}"
        paths.append(path)
        overlap.wait(OVERLAP_S)
        inside.release()
        return b"{}"

    monkeypatch.setattr(client, "_connect", lambda _endpoint: object())
    monkeypatch.setattr(client, "_exchange", exchange)

    def send(path: str) -> None:
        both_started.wait(DEADLINE_S)
        client.send(path, InstallProgress(intent=1, step=InstallStep.DONE, percent=100.0))

    with ThreadPoolExecutor(2) as pool:
        for call in [pool.submit(send, path) for path in ("/progress", "/complete")]:
            call.result(DEADLINE_S)
    assert not overlap.is_set()
    assert sorted(paths) == ["/complete", "/progress"]


class Wire:
    """In a socket's place; each write would be a TLS record."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.writes.append(data)


def test_a_message_leaves_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    trust = PinnedTrust("00" * 32)
    connection = _Connection(Endpoint("control.invalid", 7443), trust, ssl.create_default_context())
    wire = Wire()
    monkeypatch.setattr(connection, "sock", wire)
    connection.request(
        "POST", "/v1/node/status", body=b'{"sequence":1}', headers={"Accept": "application/json"}
    )
    (message,) = wire.writes
    head, _, body = message.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/node/status HTTP/1.1\r\n")
    assert b"\r\nContent-Length: 14" in head
    assert body == b'{"sequence":1}'


class Answer:
    """In a socket's place: these bytes come, whatever is asked."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def sendall(self, _data: bytes) -> None:
        return

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(io.BytesIO(self._data))

    def close(self) -> None:
        return


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
NO_ANSWERS = pytest.mark.parametrize(
    "answer",
    [
        CHUNKED + b"-5\r\n{}\r\n0\r\n\r\n",
        CHUNKED + b"-" + b"9" * 40 + b"\r\n{}",
        CHUNKED + b"zz\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -7\r\n\r\n",
        b"HTTP/1.1 99999999999999999999 OK\r\n\r\n{}",
        b"\xff" * 70_000,
        b"",
    ],
    ids=["negative-chunk", "endless-chunk", "no-number", "negative-length", "status", "noise", "nothing"],
)


@NO_ANSWERS
def test_answer_that_is_no_http_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    trust = PinnedTrust("00" * 32)
    client = ControlClient(("https://control.invalid",), trust)

    def connect(endpoint: Endpoint) -> _Connection:
        connection = _Connection(endpoint, trust, ssl.create_default_context())
        monkeypatch.setattr(connection, "sock", Answer(answer))
        return connection

    monkeypatch.setattr(client, "_connect", connect)
    with pytest.raises(AgentError):
        client.get("/v1/node/desired", Desired)


@NO_ANSWERS
def test_content_that_is_no_http_is_asked_for_again(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    monkeypatch.setattr(
        http.client.HTTPConnection, "connect", lambda self: setattr(self, "sock", Answer(answer))
    )
    with pytest.raises(StreamBroken):
        fetch_small("http://10.0.0.1/index.json", "00" * 32)


def reach(monkeypatch: pytest.MonkeyPatch, answers: dict[str, Exception | None]) -> list[str]:
    """Ask a control server at these addresses, each of which fails to connect or answers; who answered."""
    client = ControlClient(tuple(f"https://{host}" for host in answers), PinnedTrust("00" * 32))
    answered = []

    def connect(endpoint: Endpoint) -> object:
        fault = answers[endpoint.host]
        if fault is not None:
            raise fault
        answered.append(endpoint.host)
        return object()

    monkeypatch.setattr(client, "_connect", connect)
    monkeypatch.setattr(client, "_exchange", lambda *_: b"{}")
    client.send("/complete", InstallProgress(intent=1, step=InstallStep.DONE, percent=100.0))
    return answered


def test_stranger_at_one_address_does_not_keep_from_the_server_at_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert reach(monkeypatch, {"10.0.0.1": Untrusted("another's"), "10.0.0.2": None}) == ["10.0.0.2"]


def test_where_nobody_answers_the_stranger_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Untrusted, match="another's"):
        reach(monkeypatch, {"10.0.0.1": Unreachable("away"), "10.0.0.2": Untrusted("another's")})
