"""Who looks on at what was ordered, while the server begins anew."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes_fleet import cluster_spec, node_spec, open_fleet

from fleet import admin_client
from fleet.admin_client import BrokenOffError, FleetReader, NoServerError

pytestmark = pytest.mark.integration

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"rollout": 7}'


def serve(listening: socket.socket, *answers: bytes) -> None:
    """Answer one connection after the other; an empty answer is a server that ends."""
    listening.settimeout(30)
    for answer in answers:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)


def test_who_looks_on_waits_for_a_server_that_ends_and_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_client, "RETRY_S", 0.01)
    before = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(before))
        listening.listen()
        ending = threading.Thread(target=serve, args=(listening, b"", ANSWER[:-4], ANSWER))
        ending.start()
        try:
            assert FleetReader(tmp_path).look("/v1/rollout") == {"rollout": 7}
        finally:
            ending.join()


@pytest.mark.parametrize(
    "look",
    [
        lambda reader: reader.nodes()["nodes"][0]["name"],
        lambda reader: reader.overview()["awaited"][0],
        lambda reader: reader.timeline("a1")["node"]["name"],
    ],
    ids=["nodes", "overview", "timeline"],
)
def test_what_the_record_tells_is_told_while_the_server_ends(
    tmp_path: Path, look: Callable[[FleetReader], str]
) -> None:
    open_fleet(tmp_path, cluster_spec(node_spec("a1", 1))).store.close()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "control.sock"))
        listening.listen()
        ending = threading.Thread(target=serve, args=(listening, b""))
        ending.start()
        try:
            assert look(FleetReader(tmp_path)) == "a1"
        finally:
            ending.join()


def test_an_order_that_the_server_broke_off_is_not_given_twice(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "control.sock"))
        listening.listen()
        ending = threading.Thread(target=serve, args=(listening, b""))
        ending.start()
        try:
            with pytest.raises(BrokenOffError, match="ended while it was asked"):
                FleetReader(tmp_path).ask("POST", "/v1/rollout", {})
        finally:
            ending.join()


def test_who_looks_on_gives_up_after_the_time_of_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_client, "RESTART_S", 0.0)
    with pytest.raises(NoServerError):
        FleetReader(tmp_path).look("/v1/rollout")
