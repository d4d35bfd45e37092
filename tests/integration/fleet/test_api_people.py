"""The control API for people elsewhere: tokens, roles, pages, repeats, request ids; over real TLS."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import re
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import create_connection
from typing import Any

import fakes_fleet
import pytest
from fakes_fleet import cluster_spec, node_spec
from fakes_fleet_server import Caller, Running, running
from fakes_spec import changed

from fleet.admin_client import FleetReader
from fleet.api.guard import UNDER_WAY_S, Limits
from fleet.api.openapi import openapi_path
from fleet.api.routes import Access, Route
from fleet.api.table import ROUTES
from fleet.errors import FleetError
from fleet.store.access import RepeatRecord
from fleet.store.database import Store
from fleet.timeline import Entry, Kind
from fleet.trust.tokens import TokenRole

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("backend")]

NODES = [node_spec(f"pi4-{number:02}", number) for number in range(1, 13)]
SETTINGS = b'{"BOOT_ORDER": "0xf62"}'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    # One address asks for all that is refused here.
    with running(tmp_path, cluster_spec(*NODES), Limits(refused_burst=1000)) as one:
        yield one


@pytest.fixture
def viewer(server: Running) -> Caller:
    return server.person("grafana", TokenRole.VIEWER)


@pytest.fixture
def admin(server: Running) -> Caller:
    return server.person("ci", TokenRole.ADMIN)


VALUES = {"intent": "7", "number": "7", "sha256": "0" * 64}


def example(route: Route) -> str:
    """A path of the route that exists as far as the route goes."""
    return re.sub(r"\{(\w+)\}", lambda found: VALUES.get(found[1], "pi4-01"), openapi_path(route.path))


def value(answer: Any) -> Any:
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


def test_no_route_answers_who_shows_nothing(server: Running) -> None:
    for route in ROUTES:
        answer = server.caller().ask(route.method, example(route), b"{}")
        assert answer.status == (400 if route.access is Access.ENROLMENT else 401), route.name
        assert json.loads(answer.body)["request_id"] == answer.headers["X-Request-Id"]


def test_no_token_of_a_person_opens_a_nodes_or_an_installers_route(server: Running, admin: Caller) -> None:
    for route in ROUTES:
        if route.access in (Access.NODE, Access.INSTALLER):
            assert admin.ask(route.method, example(route), b"{}").status in (400, 401), route.name


def test_viewers_see_and_change_nothing(server: Running, viewer: Caller) -> None:
    for route in ROUTES:
        if route.access.is_of_people:
            answer = viewer.ask(route.method, example(route), None if route.method == "GET" else b"{}")
            # 409: this server carries no release of the agent.
            granted = answer.status in (200, 409) if route.access is Access.VIEWER else answer.status == 403
            assert granted, (route.name, answer)
    assert json.loads(viewer.ask("POST", "/v1/tokens", b"{}").body)["error"] == "role"


def test_an_admin_reads_every_list(server: Running, admin: Caller) -> None:
    for route in ROUTES:
        if route.access.is_of_people and not route.is_write:
            # 404: nobody was asked errand 7. 409: no release of the agent here, and no node that reports.
            assert admin.ask("GET", example(route)).status in (200, 404, 409), route.name


def test_a_token_that_is_over_opens_nothing(server: Running, viewer: Caller, tmp_path: Path) -> None:
    value(viewer.ask("GET", "/v1/nodes"))
    reader = FleetReader(tmp_path)
    assert "is revoked" in reader.revoke_token("grafana")
    assert viewer.ask("GET", "/v1/nodes").status == 401
    with pytest.raises(FleetError, match="token 'grafana' has ended already"):
        reader.revoke_token("grafana")
    short = server.person("short", TokenRole.VIEWER)
    with pytest.raises(FleetError, match=r"no token is called 'Shrt'\. Did you mean 'short'\?") as refused:
        reader.revoke_token("Shrt")
    assert (refused.value.exit_code, "'bramble token list' lists them" in refused.value.hint) == (1, True)
    with pytest.raises(FleetError, match=r"no token is called 'grafna'\. 'bramble"):  # it has ended
        reader.revoke_token("grafna")
    server.fleet.clock.advance(91 * 86400)
    assert short.ask("GET", "/v1/nodes").status == 401
    states = {one["name"]: one["revoked"] is not None for one in reader.tokens()}
    assert states == {"grafana": True, "short": False}


@pytest.mark.parametrize("shown", ["", "bramble_00000000_" + "0" * 64, "x" * 5000, "bramble_", "%00"])
def test_what_is_no_token_is_refused_without_a_word_about_why(server: Running, shown: str) -> None:
    caller = server.caller()
    caller.token = shown
    answer = caller.ask("GET", "/v1/nodes")
    assert (answer.status, answer.error) == (401, "token")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_tokens_are_stored_as_hashes_only(tmp_path: Path, server: Running, viewer: Caller) -> None:
    with server.fleet.store.read() as reader:
        rows = reader.all_tokens()
        assert [row.name for row in rows] == ["grafana"]
        assert viewer.token not in str(rows)
        assert rows[0].id in viewer.token
    for path in tmp_path.rglob("*"):
        if path.is_file() and not path.is_socket():
            assert viewer.token.encode() not in path.read_bytes()


def test_what_admins_do_is_recorded_with_who_and_the_request(
    server: Running, admin: Caller, tmp_path: Path
) -> None:
    made = admin.ask("POST", "/v1/tokens", b'{"name": "second"}', {"X-Request-Id": "from-a-test"})
    assert made.headers["X-Request-Id"] == "from-a-test"
    assert "bramble_" in value(made)["token"]
    FleetReader(tmp_path).revoke_token("second")
    admin.ask("POST", "/v1/tokens/nobody/revoke")  # refused: nothing was done
    lines = value(admin.ask("GET", "/v1/audit"))["items"]
    user = pwd.getpwuid(os.getuid()).pw_name
    assert [(line["who"].split(" (")[0], line["what"]) for line in lines] == [
        ("token ci", "createToken"),
        (user, "revokeToken"),
    ]
    assert f"(uid {os.getuid()}) on " in lines[1]["who"]
    assert lines[0]["request_id"] == "from-a-test"
    assert lines[1]["detail"] == {"token": "second"}
    assert "bramble_" not in json.dumps(lines)


def test_an_unsound_request_id_is_replaced(server: Running) -> None:
    answer = server.caller().ask("GET", "/v1/nodes", None, {"X-Request-Id": "a b\tc" + "x" * 100})
    assert re.fullmatch("[0-9a-f]{16}", answer.headers["X-Request-Id"])


def test_the_audit_says_what_was_done_not_only_where(server: Running, admin: Caller) -> None:
    key = {"Idempotency-Key": "a-key-of-mine"}
    made = admin.ask("POST", "/v1/tokens", b'{"name": "second", "role": "admin", "ttl_s": 60}', key)
    ours = value(made)["view"]["id"]
    admin.ask("POST", "/v1/admin/devices", json.dumps({"abcd0001": "0" * 64, "abcd0002": "1" * 64}).encode())
    details = {line["what"]: line["detail"] for line in value(admin.ask("GET", "/v1/audit"))["items"]}
    assert details["createToken"] == {"token": ours, "name": "second", "role": "admin", "ttl_s": "60"}
    assert details["importDevices"]["boards"] == "abcd0001, abcd0002"
    assert details["importDevices"]["done"].startswith("2 device key(s) imported")
    assert value(made)["token"] not in str(details)


@pytest.mark.parametrize("limit", [1, 5, 12, 100])
def test_pages_give_every_node_once(server: Running, viewer: Caller, limit: int) -> None:
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = value(
            viewer.ask(
                "GET", f"/v1/nodes?limit={limit}&cursor={cursor}" if cursor else f"/v1/nodes?limit={limit}"
            )
        )
        assert len(page["items"]) <= limit
        found += [item["name"] for item in page["items"]]
        cursor = page["next"]
    assert found == [node.name for node in NODES]


def test_who_follows_the_events_misses_none(server: Running, viewer: Caller) -> None:
    first = value(viewer.ask("GET", "/v1/events?limit=1000"))
    assert first["next"] is None
    seen = [item["id"] for item in first["items"]]

    def write(count: int) -> None:
        with server.fleet.store.write() as tx:
            for number in range(count):
                tx.add_event(Entry(kind=Kind.BOOT, text=str(number)), 1.0, node="pi4-01")

    server.in_loop(lambda: write(30))
    texts: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = value(
            viewer.ask("GET", f"/v1/events?node=pi4-01&limit=7{'&cursor=' + cursor if cursor else ''}")
        )
        texts += [item["text"] for item in page["items"] if item["id"] not in seen]
        cursor = page["next"]
    assert texts == [str(number) for number in range(30)]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=",
        "cursor=!",
        "cursor=WzFd",
        "cursor=MQ",
        "limit=٣",
        "more=1",
    ],
)
def test_pages_that_cannot_be_are_refused(server: Running, viewer: Caller, query: str) -> None:
    from urllib.parse import quote

    answer = viewer.ask("GET", f"/v1/nodes?{quote(query, safe='=&!')}")
    assert (answer.status, answer.error) == (400, query.split("=")[0])


def test_a_repeat_with_the_same_key_does_nothing_and_is_answered_the_same(
    server: Running, admin: Caller
) -> None:
    admin.ask("POST", "/v1/tokens", b'{"name": "victim"}')
    key = {"Idempotency-Key": "a-key-of-mine"}
    first = admin.ask("POST", "/v1/tokens/victim/revoke", None, key)
    again = admin.ask("POST", "/v1/tokens/victim/revoke", None, key)
    assert (first.status, again.status, again.body) == (200, 200, first.body)
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    other = admin.ask("POST", "/v1/tokens/other/revoke", None, key)
    assert (other.status, other.error) == (422, "idempotency-key")
    # Without the key it is another request, and finds nothing to revoke.
    assert admin.ask("POST", "/v1/tokens/victim/revoke").status == 404
    assert len(value(admin.ask("GET", "/v1/audit"))["items"]) == 2


def test_an_answer_that_holds_a_secret_is_not_kept_for_repeats(server: Running, admin: Caller) -> None:
    key = {"Idempotency-Key": "a-key-of-mine"}
    made = value(admin.ask("POST", "/v1/tokens", b'{"name": "once"}', key))
    again = admin.ask("POST", "/v1/tokens", b'{"name": "once"}', key)
    assert (again.status, again.error) == (409, "done")
    with server.fleet.store.read() as reader:
        assert made["token"] not in str(reader.connection.exec_driver_sql("SELECT * FROM repeats").all())


def test_a_request_that_was_refused_may_come_again_with_its_key(server: Running, admin: Caller) -> None:
    key = {"Idempotency-Key": "a-key-of-mine"}
    assert admin.ask("POST", "/v1/tokens/later/revoke", None, key).status == 404
    admin.ask("POST", "/v1/tokens", b'{"name": "later"}')
    assert admin.ask("POST", "/v1/tokens/later/revoke", None, key).status == 200


@pytest.mark.parametrize("key", ["short", "x" * 65, "with space!", ""])
def test_an_idempotency_key_that_is_none_is_refused(server: Running, admin: Caller, key: str) -> None:
    answer = admin.ask("POST", "/v1/tokens/x/revoke", None, {"Idempotency-Key": key})
    assert (answer.status, answer.error) == (400, "idempotency-key")


def test_one_caller_that_asks_too_often_does_not_stop_another(tmp_path: Path) -> None:
    limits = Limits(token_burst=5, token_per_second=0.01, refused_burst=3, refused_per_second=0.01)
    with running(tmp_path, cluster_spec(*NODES), limits) as server:
        greedy, modest = server.person("greedy", TokenRole.VIEWER), server.person("modest", TokenRole.VIEWER)
        assert [greedy.ask("GET", "/v1/nodes").status for _ in range(7)] == [200] * 5 + [429] * 2
        assert modest.ask("GET", "/v1/nodes").status == 200
        guesser = server.caller()
        guesser.token = "bramble_00000000_" + "0" * 64
        answers = [guesser.ask("GET", "/v1/nodes") for _ in range(5)]
        assert [answer.status for answer in answers] == [401] * 3 + [429] * 2
        assert answers[-1].headers["Retry-After"] == "5"
        assert modest.ask("GET", "/v1/nodes").status == 200


def test_methods_that_a_route_has_not_are_named(server: Running) -> None:
    answer = server.caller().ask("DELETE", "/v1/tokens")
    assert (answer.status, answer.error, answer.headers["Allow"]) == (405, "method", "GET, POST")


def test_a_mistake_of_ours_is_told_without_its_insides(
    server: Running, viewer: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        raise RuntimeError("secret insides")

    monkeypatch.setattr("fleet.api.lists.nodes_after", fail)
    answer = viewer.ask("GET", "/v1/nodes")
    assert (answer.status, answer.error) == (500, "internal")
    assert b"insides" not in answer.body
    assert b"Traceback" not in answer.body


def test_a_store_that_is_away_is_told_and_may_be_asked_again(
    server: Running, viewer: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr("fleet.api.lists.nodes_after", fail)
    assert viewer.ask("GET", "/v1/nodes").status == 500  # not through the store: a mistake of ours

    from fleet.store.errors import StoreError

    def away(*_args: object) -> None:
        raise StoreError("it is away", "Ask again.", server.fleet.store.place)

    monkeypatch.setattr("fleet.api.lists.nodes_after", away)
    answer = viewer.ask("GET", "/v1/nodes")
    assert (answer.status, answer.error, answer.headers["Retry-After"]) == (503, "unavailable", "5")


@contextmanager
def connected(server: Running) -> Iterator[ssl.SSLSocket]:
    tls = ssl._create_unverified_context()
    with create_connection(("127.0.0.1", server.port), 20) as plain, tls.wrap_socket(plain) as sock:
        sock.settimeout(20)
        yield sock


def test_a_body_that_trickles_in_is_cut_off(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.api.guard.REQUEST_S", 0.2)
    with connected(server) as sock:
        sock.sendall(b"POST /v1/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert sock.recv(4096).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    "start", [b"", b"GET /v1/nodes HTTP/1.1\r\nHost: x\r\nX-Slow: "], ids=["nothing", "a-part"]
)
def test_a_connection_that_does_not_ask_is_closed(
    server: Running, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    monkeypatch.setattr("fleet.api.silence.FIRST_REQUEST_S", 0.1)
    with connected(server) as sock:
        sock.sendall(start)
        with suppress(ConnectionResetError):
            assert sock.recv(4096) == b""


def test_a_connection_that_asks_now_and_then_is_kept(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.api.silence.FIRST_REQUEST_S", 0.1)
    with connected(server) as sock:
        for _ in range(3):
            sock.sendall(b"GET /v1/nodes HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(4096).startswith(b"HTTP/1.1 401 ")
            # The next look at silent connections, and the one after it.
            looked = threading.Event()
            server.loop.call_soon_threadsafe(server.loop.call_later, 2.2, looked.set)
            assert looked.wait(20)


def test_commands_make_list_and_end_tokens(tmp_path: Path, server: Running) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(changed())
    # The command looks for the cluster's directory below the one that is named.
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "attic").symlink_to(tmp_path)

    def bramble(*argv: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "bramble.cli", *argv],
            env={"BRAMBLE_STATE_DIR": str(tmp_path / "states"), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    caller = server.caller()
    caller.token = bramble("token", "create", "mine", str(cluster), "--ttl", "12h").strip()
    value(caller.ask("GET", "/v1/nodes"))
    assert "mine" in bramble("token", "list", str(cluster))
    assert "is revoked" in bramble("token", "revoke", "mine", str(cluster), "--yes")
    assert caller.ask("GET", "/v1/nodes").status == 401
    assert json.loads(bramble("api", "openapi"))["openapi"] == "3.1.0"


def test_a_restored_record_holds_no_token_in_force(server: Running, viewer: Caller, tmp_path: Path) -> None:
    from fleet.backup import make_backup, restore_backup

    file = tmp_path / "saved.bramble"
    make_backup("attic", tmp_path, server.fleet.store.place, file)
    state = tmp_path / "restored"
    place = fakes_fleet.store_place(state)
    restore_backup("attic", file, state, place)
    store = Store.open(place)
    try:
        with store.read() as reader:
            assert [(one.name, one.revoked is not None) for one in reader.all_tokens()] == [("grafana", True)]
    finally:
        store.close()


@pytest.mark.parametrize(
    ("age_s", "error"), [(UNDER_WAY_S - 30, "under-way"), (UNDER_WAY_S + 30, "outcome-unknown")]
)
def test_a_request_whose_outcome_nobody_knows_is_not_run_again(
    server: Running, admin: Caller, age_s: float, error: str
) -> None:
    admin.ask("POST", "/v1/tokens", b'{"name": "kept"}')
    ours = next(one for one in server.fleet.controller.tokens.tokens() if one.name == "ci")
    path = "/v1/tokens/kept/revoke"
    cut_off = RepeatRecord(
        key=f"token ci ({ours.id})/a-key-of-mine",
        request_sha256=hashlib.sha256(f"POST {path}\n".encode()).hexdigest(),
        at=time.time() - age_s,
        status=None,
        answer=None,
    )

    def leave() -> None:
        with server.fleet.store.write() as tx:
            tx.put_repeat(cut_off)

    server.in_loop(leave)
    answer = admin.ask("POST", path, None, {"Idempotency-Key": "a-key-of-mine"})
    assert (answer.status, answer.error) == (409, error)
    assert all(one.revoked is None for one in server.fleet.controller.tokens.tokens())
    assert admin.ask("POST", path, None, {"Idempotency-Key": "a-key-of-ours"}).status == 200
