"""`bramble rollout` as a person types it, against a running server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes_fleet_server import Running
from typed_cluster import HEAD, node_line, serving, typed, write_cluster

from fleet.cli.rollout import rollout
from fleet.errors import FleetError
from fleet.lifecycle import Standing, State
from fleet.trust.tokens import TokenRole

pytestmark = pytest.mark.integration

CLUSTER = HEAD + node_line("s1", 1, role="server") + node_line("a1", 2) + node_line("a2", 3)
NEW = "1c" * 32


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """Every node is Ready with the image `f…`; the new one is built."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)
    with serving(write_cluster(tmp_path, CLUSTER, monkeypatch)) as one:
        one.fleet.images.known[NEW] = "v1.33.5+k3s1"
        one.in_loop(lambda: make_ready(one))
        yield one


def make_ready(server: Running) -> None:
    import sqlalchemy as sa

    from fleet.store.tables import nodes

    standing = Standing(state=State.READY, since=1.0, progressed_at=1.0)
    with server.fleet.store.write() as tx:
        values = {"state": standing.state.value, "image_id": "f" * 64}
        tx.connection.execute(sa.update(nodes).values(**values))


def shown(*arguments: str) -> Any:
    result = typed(rollout, *arguments, "--json")
    return json.loads(result.stdout)


def test_a_dry_run_shows_the_order_and_changes_nothing(server: Running) -> None:
    result = typed(rollout, "--image", NEW[:12], "--dry-run", "--soak", "1h")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("image 1c1c1c1c1c1c, k3s v1.33.5+k3s1; agents first")
    assert "a1" in lines[1]
    assert "agent, ready, has ffffffffffff, goes first and is watched for 1 h" in lines[1]
    assert "s1" in lines[3]
    assert "- the cluster.yaml in force has image ffffffffffff" in result.output
    assert lines[-1] == "nothing was changed"
    assert typed(rollout, "status").output == "There was no rollout yet.\n"
    assert shown("status") is None


def test_from_the_first_word_to_the_last(server: Running) -> None:
    begun = typed(rollout, "--image", NEW, "--canary", "a2", "--yes")
    assert begun.exit_code == 0, begun.output
    assert "rollout 1 of image 1c1c1c1c1c1c to 3 node(s) has begun, a2 first" in begun.output
    view = shown("status")
    assert (view["number"], view["phase"], view["canary"], view["total"]) == (1, "running", "a2", 3)
    assert [step["node"] for step in view["steps"]] == ["a2", "a1", "s1"]
    table = typed(rollout, "status").output
    assert "waiting" in table
    assert "running, 0 of 3 done" in table
    again = typed(rollout, "--image", NEW, "--yes")
    assert again.exit_code == 1
    assert "! rollout 1 of image 1c1c1c1c1c1c is running" in again.output
    assert "is paused" in typed(rollout, "pause").output
    assert "'bramble rollout resume' goes on" in typed(rollout, "status").output
    assert "rollout 1 goes on" in typed(rollout, "resume").output
    assert "is over; 0 of 3" in typed(rollout, "abort").output
    assert shown("status")["phase"] == "aborted"


def test_what_cannot_be_is_said_and_exits_with_one(server: Running) -> None:
    result = typed(rollout, "--image", NEW, "--max-parallel", "5", "--yes")
    assert result.exit_code == 1
    assert "! 5 agents at a time are more than the 1" in result.output
    assert shown("status") is None
    unknown = typed(rollout, "--image", "abcdef123456", "--yes")
    assert isinstance(unknown.exception, FleetError)
    assert "there is no image 'abcdef123456'" in unknown.exception.message
    nothing = typed(rollout, "resume")
    assert isinstance(nothing.exception, FleetError)
    assert "no rollout to resume: there is none" in nothing.exception.message


def test_it_is_asked_about_where_there_is_a_terminal_and_refused_where_not(server: Running) -> None:
    result = typed(rollout, "--image", NEW)
    assert result.exit_code == 2
    assert "no terminal to ask on" in result.output
    assert shown("status") is None
    assert typed(rollout, "--soak", "soon", "--yes").exit_code == 2
    assert typed(rollout, "--max-parallel", "0", "--yes").exit_code == 2


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{",
        b'{"imagee": "x"}',
        b'{"image": 7}',
        b'{"image": ""}',
        b'{"canary": "a\\u0007"}',
        b'{"max_parallel": 0}',
        b'{"max_parallel": true}',
        b'{"max_parallel": 1e9}',
        b'{"soak_s": -1}',
        b'{"soak_s": "1h"}',
        b'{"soak_s": NaN}',
        b'{"dry_run": "no"}',
    ],
)
def test_bodies_that_are_no_order_are_refused(server: Running, body: bytes) -> None:
    admin = server.person("ci", TokenRole.ADMIN)
    assert admin.ask("POST", "/v1/admin/rollout", body).status == 400
    assert shown("status") is None


def test_viewers_look_and_admins_order(server: Running) -> None:
    viewer = server.person("eve", TokenRole.VIEWER)
    assert viewer.ask("GET", "/v1/admin/rollout").status == 200
    for path in ("", "/pause", "/resume", "/abort"):
        assert viewer.ask("POST", f"/v1/admin/rollout{path}", b"{}").status == 403
