"""What the dashboard asks of the store, on both databases."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from fakes_fleet import Fleet, hardware_of, status_report
from fleet_story import AGENT, SERVER, enrol, install, see

from bramble.dashboard.alerts import EVERY_S, ClusterGlances
from bramble.dashboard.feed import Feed
from fleet.attention import EtcdFault
from fleet.boots import BootStage
from fleet.lifecycle import State
from fleet.spec.model import Role
from fleet.store.glance import (
    audit_before,
    find_events,
    glances,
    images_in_use,
    newest_event,
    nodes_of_role,
    owners_of_events,
    reports_since,
)
from fleet.trust.login_links import LIFE_S
from fleet.trust.tokens import TokenRole
from fleet.views import timeline_view

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("backend")]


def test_a_glance_is_the_record_without_its_report(fleet: Fleet) -> None:
    see(fleet, AGENT)
    with fleet.store.read() as reader:
        seen = {one.name: one for one in glances(reader)}
        whole = reader.require_node(AGENT.name)
        servers = nodes_of_role(reader, Role.SERVER)
    assert list(seen) == sorted(seen)
    assert (seen[AGENT.name].state, seen[AGENT.name].since) == (State.NETBOOTING, whole.standing.since)
    assert [node.name for node in servers] == [SERVER.name]


def test_entries_are_found_by_owner_kind_and_text(fleet: Fleet) -> None:
    see(fleet, AGENT, text="asks for 100% of_it")
    see(fleet, SERVER, text="asks for something else")
    fleet.controller.boots.flush()
    with fleet.store.read() as reader:
        assert newest_event(reader) == find_events(reader, 1)[0].id == owners_of_events(reader, 1)[0][0]
        assert [one.text for one in find_events(reader, 9, text="100% OF_")] == ["asks for 100% of_it"]
        assert find_events(reader, 9, text="100%of") == []
        own = find_events(reader, 9, node=AGENT.name, kinds=("intent",))
        assert {one.kind for one in own} == {"intent"}
        both = find_events(reader, 50)
        assert [one.id for one in both] == sorted((one.id for one in both), reverse=True)
        assert find_events(reader, 50, before=both[0].id) == both[1:]


def test_images_in_use_and_reports_that_are_new(fleet: Fleet) -> None:
    install(fleet, AGENT)
    certificate = enrol(fleet, AGENT)
    at = fleet.clock.advance(5.0)
    fleet.controller.joins.status(certificate, status_report(hardware_of(AGENT), 1))
    with fleet.store.read() as reader:
        assert images_in_use(reader) == {"f" * 64: [AGENT.name]}
        ((name, told, status),) = reports_since(reader, at - 1.0)
        assert (name, told) == (AGENT.name, at)
        assert status is not None
        assert reports_since(reader, at) == []


@pytest.mark.parametrize("name", ["pi4-1\0", "\0", "\udcff"], ids=ascii)
def test_a_name_that_no_database_takes_is_nobodys(fleet: Fleet, name: str) -> None:
    assert timeline_view(fleet.store, name) is None


def test_the_audit_is_read_backwards(fleet: Fleet) -> None:
    for number in range(3):
        with fleet.store.write() as tx:
            tx.add_audit(at=fleet.clock(), who="me", what=f"deed{number}", request_id="r", detail={})
    with fleet.store.read() as reader:
        first = audit_before(reader, 2)
        assert [line.what for line in first] == ["deed2", "deed1"]
        assert [line.what for line in audit_before(reader, 2, before=first[-1].id)] == ["deed0"]


def make_feed(
    fleet: Fleet,
    snapshot_problem: Callable[[], str] = lambda: "",
    faults: Callable[[], Sequence[EtcdFault]] = lambda: (),
) -> Feed:
    clusters = ClusterGlances(snapshot_problem, faults, fleet.clock)
    return Feed(fleet.store, fleet.controller.boots.flush, lambda size: "ab" * size, clusters, fleet.clock)


def test_a_feed_tells_what_is_the_matter_with_the_cluster_and_when_it_is_over(fleet: Fleet) -> None:
    problems = ["no snapshot of etcd is kept yet", ""]
    feed = make_feed(fleet, lambda: problems.pop(0))
    feed.look()
    assert [one.code for one in feed.cluster.findings] == ["snapshots"]
    assert feed.headline().text == "The cluster needs you"
    before = feed.cursor
    see(fleet, AGENT)
    fleet.controller.boots.flush()
    feed.look()
    assert problems == [""], "their files are not read with every look"
    assert b'"cluster":false' in feed.rack_since(before)
    fleet.clock.advance(EVERY_S)
    see(fleet, SERVER)
    fleet.controller.boots.flush()
    feed.look()
    assert feed.cluster.findings == ()
    assert b'"cluster":true' in feed.rack_since(before)


def test_what_is_wrong_with_etcd_is_told_although_nothing_is_written(fleet: Fleet) -> None:
    faults: list[EtcdFault] = []
    feed = make_feed(fleet, faults=lambda: faults)
    feed.look()
    assert feed.headline().text != "The cluster needs you"
    before = feed.cursor
    faults.append(EtcdFault(subject="", text="etcd has no quorum", hint="Bring servers back."))
    assert feed.look()
    assert [one.code for one in feed.cluster.findings] == ["etcd"]
    assert feed.headline().text == "The cluster needs you"
    assert b'"cluster":true' in feed.rack_since(before)
    faults.clear()
    assert feed.look()
    assert feed.cluster.findings == ()
    assert not feed.look()


def test_snapshots_that_cannot_be_read_end_no_feed(fleet: Fleet) -> None:
    def refuse() -> str:
        raise PermissionError(13, "Permission denied")

    feed = make_feed(fleet, refuse)
    feed.look()
    assert "cannot be read: Permission denied" in feed.cluster.findings[0].text


def test_a_feed_tells_what_differs_and_reads_nothing_where_nothing_was_written(fleet: Fleet) -> None:
    feed = make_feed(fleet)
    assert feed.look()
    before = feed.cursor
    assert not feed.look()
    see(fleet, AGENT, BootStage.SEEN, "asks for an address")
    fleet.controller.boots.flush()
    assert feed.look()
    assert feed.subject_since(AGENT.name, None, before)
    assert not feed.subject_since(SERVER.name, None, before)
    assert b"asks for an address" not in feed.rack_since(before), "chatter stands on the board's own page"
    assert b'"cards":[["pi4-1"' in feed.rack_since(before)
    assert feed.parse_mark(feed.mark_of(before)) == before
    assert feed.parse_mark("cdcdcdcd-1-1") != before


def test_a_link_is_good_once_and_not_for_long(fleet: Fleet) -> None:
    links = fleet.controller.login_links
    links.url = "https://10.77.0.1:7444"
    code = links.make("me", TokenRole.ADMIN)[0].rpartition("/")[2]
    assert links.find(code) is not None
    assert links.redeem(code) is not None
    assert links.redeem(code) is None
    late = links.make("me", TokenRole.ADMIN)[0].rpartition("/")[2]
    fleet.clock.advance(LIFE_S)
    assert links.redeem(late) is None


def test_links_do_not_pile_up(fleet: Fleet) -> None:
    links = fleet.controller.login_links
    links.url = "https://10.77.0.1:7444"
    made = [links.make("me", TokenRole.ADMIN)[0].rpartition("/")[2] for _ in range(101)]
    assert links.find(made[0]) is None
    assert links.find(made[1]) is not None
