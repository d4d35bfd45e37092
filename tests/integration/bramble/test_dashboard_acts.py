"""What is done from the dashboard: asked for, refused, carried out, put on record."""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dashboard_client import Answer, Browser, admin_of, is_revoked
from dashboard_rack import NEW, OLD, Rack, live_rack
from fakes_fleet import cluster_spec, node_spec

from agent.errands import LogUpload
from fleet.lifecycle import State
from fleet.reimage.kinds import Outcome
from fleet.spec.model import Role
from fleet.spec.power import CommandPower
from fleet.store.records import ReimageRecord
from fleet.trust.tokens import TokenRole

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _lines_of_the_log_are_made(caplog: pytest.LogCaptureFixture) -> None:
    """As in a service: a line that cannot be made takes the answer with it."""
    caplog.set_level(logging.INFO)


def test_what_destroys_needs_the_name_and_is_put_on_record(tmp_path: Path) -> None:
    with live_rack(tmp_path, cluster_spec(node_spec("pi-1", 1))) as own:
        own.do(lambda: own.make_ready(own.node("pi-1")))
        admin = Browser(own)
        admin.log_in()
        csrf = admin.get("/nodes/pi-1/confirm/revoke").csrf
        refused = admin.post("/nodes/pi-1/do/revoke", {"csrf": csrf, "typed": "pi-2"})
        assert refused.status == 422
        assert "Type pi-1" in refused.text
        assert not is_revoked(own, "pi-1")
        assert admin.post("/nodes/pi-1/do/revoke", {"csrf": csrf, "typed": "pi-1"}).status == 303
        assert is_revoked(own, "pi-1")
        assert "is revoked" in admin.get("/nodes/pi-1").text
        assert "is revoked" not in admin.get("/nodes").text, "a notice is shown once"
        page = admin.get("/audit").text
        assert "revoke" in page
        assert "by: dashboard" in page


def test_power_is_offered_where_there_is_a_switch_and_is_asked_once_more(tmp_path: Path) -> None:
    switch = CommandPower(on=("switch", "on"), off=("switch", "off"), status=None)
    spec = cluster_spec(replace(node_spec("pi-1", 1), power=switch), node_spec("pi-2", 2))
    with live_rack(tmp_path, spec) as own:
        admin = Browser(own)
        admin.log_in()
        assert "power-cycle" not in admin.get("/nodes/pi-2").text
        assert "/nodes/pi-1/confirm/power-cycle" in admin.get("/nodes/pi-1").text
        asked = admin.get("/nodes/pi-1/confirm/power-cycle")
        assert "switch pi-1 off" in asked.text
        assert own.fleet.controller.power.job("pi-1") is None, "asking sends nothing"
        assert admin.post("/nodes/pi-1/do/power-cycle", {"csrf": asked.csrf}).status == 303
        job = own.fleet.controller.power.job("pi-1")
        assert job is not None
        assert job.action.value == "cycle"
        assert job.by.startswith("token admin-")
        again = admin.post("/nodes/pi-1/do/power-cycle", {"csrf": asked.csrf})
        assert again.status == 303
        assert 'class="notice refused"' in admin.get("/nodes/pi-1").text
        assert "orderPower" in admin.get("/audit").text


def test_a_refusal_of_the_desk_is_shown_with_what_to_do(admin: Browser) -> None:
    csrf = admin.get("/").csrf
    path = "/nodes/pi5-worker-1"
    assert admin.post(f"{path}/do/approve", {"csrf": csrf, "key": ""}).status == 303
    page = admin.get(path).text
    assert "nothing of pi5-worker-1 waits for approval" in page
    assert "&#39;bramble show pi5-worker-1&#39;" in page


@pytest.mark.parametrize("action", ["release", "lift"])
def test_a_key_that_came_meanwhile_is_not_let_in_by_a_page_that_did_not_show_it(
    admin: Browser, action: str
) -> None:
    csrf, path = admin.get("/").csrf, "/nodes/pi5-master-3"  # its key waits
    assert admin.post(f"{path}/do/{action}", {"csrf": csrf}).status == 303
    page = admin.get(path).text
    assert "that waits now is" in page
    assert "It does: approve" in page


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Rack]:
    """Two agents and their server that are Ready, with the older of two images."""
    server = node_spec("s-1", 3, role=Role.SERVER)
    with live_rack(tmp_path, cluster_spec(node_spec("pi-1", 1), node_spec("pi-2", 2), server)) as own:
        own.do(lambda: own.make_ready(*own.fleet.controller.spec.nodes))
        yield own


def order_of(rack: Rack, name: str) -> ReimageRecord | None:
    with rack.fleet.store.read() as reader:
        return reader.open_reimage(name)


def rollout_of(rack: Rack) -> dict[str, Any]:
    view = rack.fleet.controller.rollouts.view()
    assert view is not None
    return view


def options(page: Answer, field: str) -> list[str]:
    """Values of a list to choose from."""
    (found,) = re.findall(rf'<select name="{field}">(.*?)</select>', page.text, re.S)
    return re.findall(r'<option value="([^"]*)"', found)


def test_a_node_is_re_imaged_with_the_image_that_was_chosen(pair: Rack) -> None:
    admin = admin_of(pair)
    asked = admin.get("/nodes/pi-1/confirm/reimage")
    assert options(asked, "image") == ["", NEW]
    form = {"csrf": asked.csrf, "typed": "pi-1", "image": NEW, "why": "a test"}
    assert admin.post("/nodes/pi-1/do/reimage", form).status == 303
    order = order_of(pair, "pi-1")
    assert order is not None
    assert (order.image_id, order.why) == (NEW, "a test")
    assert NEW in admin.get("/audit").text


@pytest.mark.parametrize("image", ["0" * 64, NEW[:12], "../x", "<script>"])
def test_an_image_that_was_not_offered_is_not_taken(pair: Rack, image: str) -> None:
    admin = admin_of(pair)
    csrf = admin.get("/").csrf
    form = {"csrf": csrf, "typed": "pi-1", "image": image}
    assert admin.post("/nodes/pi-1/do/reimage", form).status == 303
    assert order_of(pair, "pi-1") is None
    assert 'class="notice refused"' in admin.get("/nodes/pi-1").text


def give_up(rack: Rack, name: str) -> None:
    """A re-image comes to nothing before its driver has looked at it; to be called with `do`."""
    rack.fleet.controller.reimages.request(name, by="ann")
    with rack.fleet.store.write() as tx:
        order = tx.open_reimage(name)
        assert order is not None
        tx.close_reimage(order, Outcome.ABANDONED, "the board is dead", rack.fleet.clock())


def test_who_keeps_others_back_is_shown_and_its_place_freed_for_a_reason(pair: Rack) -> None:
    pair.do(lambda: give_up(pair, "pi-1"))
    admin = admin_of(pair)
    assert "The cluster needs you" in admin.get("/").text
    assert "pi-1 keeps others back" in admin.get("/upkeep").text
    assert "/nodes/pi-1/confirm/free-lock" in admin.get("/upkeep").text
    asked = admin.get("/nodes/pi-1/confirm/free-lock")
    assert "Free the place of pi-1?" in asked.text
    form = {"csrf": asked.csrf, "typed": "pi-1"}
    assert admin.post("/nodes/pi-1/do/free-lock", form).status == 303
    assert len(pair.fleet.controller.lock.holds()) == 1, "no reason was said"
    assert admin.post("/nodes/pi-1/do/free-lock", {**form, "reason": "it burned"}).status == 303
    assert pair.fleet.controller.lock.holds() == ()
    assert "Nobody holds it." in admin.get("/upkeep").text
    audit = admin.get("/audit").text
    assert "releaseLock" in audit
    assert "it burned" in audit
    assert admin.post("/nodes/pi-1/do/free-lock", {**form, "reason": "again"}).status == 303
    assert "holds no place of the fleet lock" in admin.get("/nodes/pi-1").text


def test_a_rollout_is_planned_begun_paused_resumed_and_aborted(pair: Rack) -> None:
    admin = admin_of(pair)
    blank = admin.get("/upkeep/rollout")
    assert options(blank, "image") == ["", OLD, NEW]
    assert options(blank, "canary") == ["", "pi-1", "pi-2", "s-1"]
    assert "Begin the rollout" not in blank.text, "there is no plan yet"
    planned = admin.get(f"/upkeep/rollout?plan=1&image={NEW}&canary=pi-2&soak_s=0&max_parallel=")
    assert re.findall(r"<li><strong>([^<]+)</strong>", planned.text) == ["pi-2", "pi-1", "s-1"]
    form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', planned.text))
    assert form["planned"] == NEW
    wrong = admin.post("/upkeep/rollout", {**form, "typed": "attic!"})
    assert wrong.status == 422
    assert "Type attic to go on." in wrong.text
    stale = admin.post("/upkeep/rollout", {**form, "typed": "attic", "planned": OLD})
    assert stale.status == 422
    assert pair.fleet.controller.rollouts.view() is None
    assert admin.post("/upkeep/rollout", {**form, "typed": "attic"}).status == 303
    view = rollout_of(pair)
    assert (view["image"], view["canary"], view["soak_s"], view["phase"]) == (NEW, "pi-2", 0.0, "running")
    page = admin.get("/upkeep").text
    assert "Rollout 1: 0 of 3 nodes have it" in page
    assert "Begin a rollout" not in page
    assert "/upkeep/do/pause" in page
    for word, phase in (("pause", "paused"), ("resume", "running"), ("abort", "aborted")):
        if word != "pause":
            assert admin.get(f"/upkeep/confirm/{word}").status == 200
        assert admin.post(f"/upkeep/do/{word}", {"csrf": form["csrf"]}).status == 303
        assert rollout_of(pair)["phase"] == phase
    assert admin.post("/upkeep/do/abort", {"csrf": form["csrf"]}).status == 303
    assert 'class="notice refused"' in admin.get("/upkeep").text
    audit = admin.get("/audit").text
    for word in ("startRollout", "pauseRollout", "resumeRollout", "abortRollout"):
        assert audit.count(word) == 1


def test_what_stands_against_a_rollout_is_said_and_nothing_is_begun(pair: Rack) -> None:
    admin = admin_of(pair)
    planned = admin.get(f"/upkeep/rollout?plan=1&image={OLD}")
    assert "hold image ffffffffffff already" in planned.text
    assert "Begin the rollout</button>" not in planned.text
    form = {"csrf": planned.csrf, "image": OLD, "planned": OLD, "typed": "attic"}
    assert admin.post("/upkeep/rollout", form).status == 303
    assert pair.fleet.controller.rollouts.view() is None
    assert "no rollout was begun" in admin.get("/upkeep").text


@pytest.mark.parametrize(
    "query",
    [f"image={'0' * 64}", "canary=nobody", "soak_s=1e9", "soak_s=x", "max_parallel=-1", "max_parallel=9999"],
)
def test_a_rollout_that_the_form_does_not_offer_is_not_planned(pair: Rack, query: str) -> None:
    answer = admin_of(pair).get(f"/upkeep/rollout?plan=1&{query}")
    assert answer.status == 409
    assert "is not there to choose" in answer.text


def test_a_viewer_sees_upkeep_and_begins_nothing(pair: Rack) -> None:
    pair.do(lambda: give_up(pair, "pi-1"))
    viewer = Browser(pair)
    viewer.log_in(TokenRole.VIEWER)
    page = viewer.get("/upkeep")
    assert page.status == 200
    assert "pi-1 keeps others back" in page.text
    assert "/confirm/" not in page.text
    assert "Begin a rollout" not in page.text
    form = {"csrf": page.csrf, "typed": "attic", "image": NEW, "planned": NEW}
    for path in ("/upkeep/rollout", "/upkeep/do/abort", "/nodes/pi-1/log", "/nodes/pi-1/do/free-lock"):
        assert viewer.post(path, form).status == 403
    for path in ("/upkeep/rollout", "/upkeep/confirm/abort", "/nodes/pi-1/log"):
        assert viewer.get(path).status == 403
    assert pair.fleet.controller.rollouts.view() is None


def test_a_nodes_log_is_asked_for_and_kept_for_who_looks_next(pair: Rack) -> None:
    admin, errands = admin_of(pair), pair.fleet.controller.errands
    path = "/nodes/pi-1/log"
    page = admin.get(path)
    assert "It was not asked yet." in page.text
    assert admin.post(path, {"csrf": page.csrf}).status == 303
    waiting = admin.get(path)
    assert "answers with its next report" in waiting.text
    assert "data-poll" in waiting.text
    answer_log(pair, "pi-1", "k3s says <b>hello</b>", cursor="c1")
    shown = admin_of(pair).get(path)
    assert "k3s says &lt;b&gt;hello&lt;/b&gt;" in shown.text
    assert "data-poll" not in shown.text
    followed = admin.get(f"{path}?follow=1")
    assert "Stop following" in followed.text
    assert errands.interval_s("pi-1", 10.0) < 10.0, "it reports sooner while somebody follows"
    answer_log(pair, "pi-1", "one more line", cursor="c2")
    both = admin.get(f"{path}?follow=1").text
    assert both.index("hello") < both.index("one more line")


def test_a_node_that_does_not_report_is_not_asked_for_its_log(tmp_path: Path) -> None:
    with live_rack(tmp_path, cluster_spec(node_spec("pi-1", 1))) as own:
        admin = admin_of(own)
        csrf = admin.get("/").csrf
        assert admin.post("/nodes/pi-1/log", {"csrf": csrf}).status == 303
        assert "no agent of it reports" in admin.get("/nodes/pi-1/log").text
        assert "no agent of it reports" in admin.get("/nodes/pi-1/log?follow=1").text
        assert admin.get("/nodes/nobody/log").status == 404


def answer_log(rack: Rack, name: str, *lines: str, cursor: str) -> None:
    """The node hears of the question, and sends its lines."""

    def answer() -> None:
        errands = rack.fleet.controller.errands
        with rack.fleet.store.read() as reader:
            node = reader.require_node(name)
        number = errands.number_for(name)
        assert number
        errands.take(node, LogUpload(number, lines, cursor))

    rack.do(answer)


def test_a_snapshot_that_was_ordered_is_watched_and_not_ordered_twice(pair: Rack) -> None:
    admin = admin_of(pair)
    csrf = admin.get("/cluster").csrf
    for _ in range(2):
        assert admin.post("/cluster/snapshot", {"csrf": csrf}).status == 303
    page = admin.get("/cluster").text
    assert "One is being taken." in page
    assert 'id="snapshots-part" data-part data-poll' in page
    order = pair.fleet.controller.snapshots.latest_order
    assert order is not None
    assert order.number == 1


def test_the_state_of_a_node_that_is_called_off_is_the_desks_to_know(pair: Rack) -> None:
    """Where the desk would refuse, the page does not offer."""
    pair.do(lambda: give_up(pair, "pi-1"))
    admin = admin_of(pair)
    page = html.unescape(admin.get("/nodes/pi-1").text)
    assert State.REIMAGE_REQUESTED.value not in page
    assert "Call it off" not in page
    csrf = admin.get("/").csrf
    assert admin.post("/nodes/pi-1/do/cancel", {"csrf": csrf}).status == 303
    assert "pi-1 is not being re-imaged" in admin.get("/nodes/pi-1").text
