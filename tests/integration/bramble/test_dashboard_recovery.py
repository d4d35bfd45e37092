"""A recovery of the whole cluster, ordered and called off from its page; and members that are nobody's."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboard_client import TIMEOUT_S, Answer, Browser, admin_of
from dashboard_rack import Rack, keep_sound_snapshot, live_rack
from fakes_fleet import cluster_spec, node_spec

from fleet.lifecycle import State
from fleet.recovery.state import BEFORE
from fleet.spec.model import Role
from fleet.trust.tokens import TokenRole

pytestmark = pytest.mark.integration

SERVERS = ("s-1", "s-2", "s-3")


@pytest.fixture
def rack(tmp_path: Path) -> Iterator[Rack]:
    """Three servers and an agent that are Ready, and a snapshot of their etcd."""
    servers = (node_spec(name, number, role=Role.SERVER) for number, name in enumerate(SERVERS, 1))
    spec = cluster_spec(*servers, node_spec("a-1", 9))
    with live_rack(tmp_path, spec, asks_etcd=True) as own:
        own.do(lambda: own.make_ready(*spec.nodes))
        yield own


@pytest.fixture
def snapshot(rack: Rack) -> str:
    return rack.do(lambda: keep_sound_snapshot(rack.fleet, SERVERS))


def states(rack: Rack, *names: str) -> set[State]:
    with rack.fleet.store.read() as reader:
        return {reader.require_node(name).state for name in names}


def switch_off(rack: Rack) -> None:
    """No server's etcd answers any more."""
    rack.etcd.answers = False


def planned(person: Browser, snapshot: str, more: str = "") -> Answer:
    return person.get(f"/cluster/recover?plan=1&snapshot={snapshot}&founder=s-2{more}")


def form_of(page: Answer) -> dict[str, str]:
    """The hidden fields of the form that begins it."""
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.text))


def test_a_cluster_that_lives_is_not_recovered(rack: Rack, snapshot: str) -> None:
    admin = admin_of(rack)
    assert "/cluster/recover" in admin.get("/cluster").text
    page = planned(admin, snapshot)
    assert page.status == 200
    assert "etcd answers at s-1, s-2, s-3" in page.text
    assert "Recover the cluster</button>" not in page.text
    form = {"csrf": page.csrf, "snapshot": snapshot, "planned": "s-2", "typed": "attic"}
    assert admin.post("/cluster/recover", form).status == 303
    assert "etcd answers at s-1, s-2, s-3" in admin.get("/cluster").text
    assert states(rack, *SERVERS) == {State.READY}
    assert rack.fleet.controller.recovery.status() is None


def test_a_recovery_is_planned_ordered_with_the_clusters_name_and_called_off(
    rack: Rack, snapshot: str
) -> None:
    admin = admin_of(rack)
    rack.do(lambda: switch_off(rack))
    page = planned(admin, snapshot, "&with_agents=yes")
    assert "<strong>s-2</strong> restores the snapshot" in page.text
    assert "s-1, s-3 join it, blank" in page.text
    assert "Agents are installed anew: a-1" in page.text
    form = form_of(page)
    assert (form["snapshot"], form["planned"], form["with_agents"]) == (snapshot, "s-2", "yes")
    for typed in ("", "attic!", "s-2"):
        wrong = admin.post("/cluster/recover", {**form, "typed": typed})
        assert wrong.status == 422
        assert "Type attic to go on." in wrong.text
    assert admin.post("/cluster/recover", {**form, "csrf": "x", "typed": "attic"}).status == 403
    assert states(rack, *SERVERS, "a-1") == {State.READY}
    assert admin.post("/cluster/recover", {**form, "typed": "attic"}).status == 303
    assert states(rack, *SERVERS, "a-1") == {State.DECLARED}

    cluster = html.unescape(admin.get("/cluster").text)
    assert "The cluster is brought back from a snapshot." in cluster
    assert "A recovery is under way: s-2 restores the snapshot" in cluster
    assert "s-2 is declared: switch its board on, from the network" in cluster
    assert "/cluster/recover/cancel" in cluster
    asked = admin.get("/cluster/recover/cancel")
    assert "Call the recovery off?" in asked.text
    assert admin.post("/cluster/recover/cancel", {"csrf": "x"}).status == 403
    assert states(rack, *SERVERS) == {State.DECLARED}, "asking calls nothing off"
    assert admin.post("/cluster/recover/cancel", {"csrf": asked.csrf}).status == 303
    assert states(rack, *SERVERS, "a-1") == {State.LOST}
    cluster = admin.get("/cluster").text
    assert "is called off; lost until heard of again: a-1, s-1, s-2, s-3" in cluster
    assert "A recovery is under way" not in cluster
    assert ", was called off</dd>" in cluster
    assert admin.post("/cluster/recover/cancel", {"csrf": asked.csrf}).status == 303
    assert "no recovery is under way" in admin.get("/cluster").text
    audit = admin.get("/audit").text
    for word in ("beginRecovery", "cancelRecovery"):
        assert audit.count(word) == 1
    assert snapshot in audit


def test_once_the_founder_was_told_it_is_not_offered_and_the_desk_refuses(rack: Rack, snapshot: str) -> None:
    admin = admin_of(rack)
    rack.do(lambda: switch_off(rack))
    form = form_of(planned(admin, snapshot))
    assert admin.post("/cluster/recover", {**form, "typed": "attic"}).status == 303
    assert states(rack, "a-1") == {State.READY}, "agents stay unless it is said"

    def tell() -> None:
        with rack.fleet.store.write() as tx:
            tx.remove_value(BEFORE)

    rack.do(tell)
    page = admin.get("/cluster").text
    assert "A recovery is under way" in page
    assert "/cluster/recover/cancel" not in page
    assert "could still be called off" in admin.get("/cluster/recover/cancel").text
    assert admin.post("/cluster/recover/cancel", {"csrf": form["csrf"]}).status == 303
    assert "was told to restore" in admin.get("/cluster").text
    assert states(rack, *SERVERS) == {State.DECLARED}


def test_a_viewer_looks_and_recovers_nothing(rack: Rack, snapshot: str) -> None:
    rack.do(lambda: switch_off(rack))
    viewer = Browser(rack)
    viewer.log_in(TokenRole.VIEWER)
    page = viewer.get("/cluster")
    assert snapshot in page.text
    assert "/cluster/recover" not in page.text
    form = {"csrf": page.csrf, "snapshot": snapshot, "planned": "s-2", "typed": "attic"}
    for path in ("/cluster/recover", "/cluster/recover/cancel"):
        assert viewer.get(path).status == 403
        assert viewer.post(path, form).status == 403
    assert planned(viewer, snapshot).status == 403
    assert rack.fleet.controller.recovery.status() is None


def test_what_the_form_does_not_offer_is_not_planned(rack: Rack) -> None:
    admin = admin_of(rack)
    expected = {
        "snapshot=../../etc": 409,
        "snapshot=20200101T000000Z-000000": 409,
        "founder=a-1": 409,
        "founder=<script>": 409,
        "snapshot=": 400,
    }
    answers = {query: admin.get(f"/cluster/recover?plan=1&{query}") for query in expected}
    assert {query: answer.status for query, answer in answers.items()} == expected
    assert not any("<script>" in answer.text for answer in answers.values())
    assert "No sound snapshot is kept on this machine" in admin.get("/cluster/recover").text


def test_members_that_are_nobodys_are_named_with_the_way_to_be_rid_of_them(rack: Rack) -> None:
    admin = admin_of(rack)
    rack.etcd.ghosts = ("old-master", "")
    page, deadline = "", time.monotonic() + TIMEOUT_S
    while "Members of etcd" not in page:  # it is asked beside the page, which waits for nobody
        assert time.monotonic() < deadline
        page = html.unescape(admin.get("/cluster").text)
    assert page.count("a member that no declared server stands behind") == 2
    assert "'kubectl delete node old-master', or 'bramble etcd remove" in page
    assert "If that machine is gone for good: 'bramble etcd remove" in page
    assert "5 members, led by s-1" in page
    assert "not started" in page
    # Five vote and three are well: what the servers alone would bear is not so.
    assert "The cluster stands, and not one more server may fail." in page
    assert "3 of 3 servers well, 3 needed for a quorum" in page
    assert "<td>yes</td>" not in page
    assert len(page) < 100_000
