"""The dashboard's streams: what changed and nothing else, where it was broken off, and bounded."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from dashboard_client import Browser, Stream, touch
from dashboard_rack import Rack, attic, live_rack
from fakes_fleet import node_spec

pytestmark = pytest.mark.integration


def test_the_stream_tells_what_changed_and_nothing_else(rack: Rack, admin: Browser) -> None:
    tokens = rack.do(lambda: rack.begin(rack.node("pi4-worker-5")))
    (mark,) = re.findall(r'data-after="([^"]+)"', admin.get("/").text)
    with Stream(admin, f"/live?after={mark}") as stream:
        rack.do(lambda: rack.write(tokens, 30.0))
        _, data, _ = stream.wait_for("rack", '"pi4-worker-5"')
    change = json.loads(data)
    assert [card[0] for card in change["cards"]] == ["pi4-worker-5"]
    assert change["cards"][0][3:5] == ["write 30 %", 30]


def test_a_stream_continues_where_it_was_broken_off(rack: Rack, admin: Browser) -> None:
    (mark,) = re.findall(r'data-after="([^"]+)"', admin.get("/").text)
    hurt = node_spec("x", 1)
    assert hurt.serial is not None
    rack.do(lambda: touch(rack, "pi4-worker-4", "while nobody looked"))
    with Stream(admin, "/live", last_id=mark) as stream:
        _, data, last = stream.wait_for("rack")
    assert [card[0] for card in json.loads(data)["cards"]] == ["pi4-worker-4"]
    with Stream(admin, "/live", last_id=last) as stream:
        rack.do(lambda: touch(rack, "pi4-worker-4", "and again"))
        _, data, _ = stream.wait_for("rack", "and again")
    assert len(json.loads(data)["cards"]) == 1


@pytest.mark.parametrize("mark", ["", "x", "00000000-5-5", "-1-1", "0" * 300])
def test_a_mark_of_another_server_is_answered_with_everything(rack: Rack, admin: Browser, mark: str) -> None:
    with Stream(admin, f"/live?after={mark}") as stream:
        _, data, _ = stream.wait_for("rack")
    assert len(json.loads(data)["cards"]) == len(rack.fleet.controller.spec.nodes)


def test_changes_of_one_moment_are_one_event(rack: Rack, admin: Browser) -> None:
    (mark,) = re.findall(r'data-after="([^"]+)"', admin.get("/").text)

    def burst() -> None:
        for number in range(50):
            touch(rack, "pi4-worker-4", f"burst {number}")

    with Stream(admin, f"/live?after={mark}") as stream:
        rack.do(burst)
        stream.wait_for("rack", "burst 49")
        assert len([one for one in stream.found if "burst" in one[1]]) <= 2


def test_a_page_of_one_board_is_told_of_its_own_changes_only(rack: Rack, admin: Browser) -> None:
    (mark,) = re.findall(r'data-after="([^"]+)"', admin.get("/nodes/pi5-master-1").text)
    with Stream(admin, f"/live?of=pi5-master-1&after={mark}") as stream:
        rack.do(lambda: touch(rack, "pi4-worker-4", "not yours"))
        rack.do(lambda: touch(rack, "pi5-master-1", "yours"))
        stream.wait_for("stale")
        assert len(stream.found) == 1


def test_a_session_that_ends_ends_its_stream(rack: Rack, admin: Browser) -> None:
    csrf = admin.get("/").csrf
    with Stream(Browser(rack, dict(admin.cookies)), "/live") as stream:
        stream.wait_for("rack")
        admin.post("/logout", {"csrf": csrf})
        rack.do(lambda: touch(rack, "pi4-worker-4", "a secret of later"))
        stream.wait_for("over")
        assert not [one for one in stream.found if "a secret of later" in one[1]]


def test_streams_are_bounded(tmp_path: Path) -> None:
    with live_rack(tmp_path, attic(1)) as own:
        admin = Browser(own)
        admin.log_in()
        streams = [Stream(admin, "/live") for _ in range(20)]
        try:
            for stream in streams:
                stream.__enter__()
            assert admin.get("/live").status == 503
        finally:
            for stream in streams:
                stream.__exit__()
        assert own.site.feed.listeners <= 20


def test_a_look_without_a_commit_reads_nothing(rack: Rack) -> None:
    def look_twice() -> tuple[bool, bool]:
        rack.fleet.controller.boots.flush()
        rack.site.feed.look()
        before = rack.site.feed.look()
        touch(rack, "pi4-worker-4", f"at {time.monotonic_ns()}")
        return before, rack.site.feed.look()

    assert rack.do(look_twice) == (False, True)
