"""The server that was to found the cluster is revoked before it did: who founds it then, and who must not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes_fleet import Fleet, cluster_spec, node_spec, open_fleet
from fleet_story import enrol, install, kube_ready, texts

from fleet.join.founding import FOUNDED, FOUNDER
from fleet.refusal import RefusedError
from fleet.spec.model import Role
from fleet.timeline import Kind

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("backend")]

SERVERS = [node_spec(f"s{number}", number, role=Role.SERVER) for number in (1, 2, 3)]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    opened = open_fleet(tmp_path, cluster_spec(*SERVERS))
    for server in SERVERS:
        install(opened, server)
    yield opened
    opened.store.close()


def founder(fleet: Fleet) -> str | None:
    with fleet.store.read() as reader:
        return reader.value(FOUNDER)


def test_one_that_was_never_told_how_makes_way(fleet: Fleet) -> None:
    first, second = (enrol(fleet, server) for server in SERVERS[:2])
    joins = fleet.controller.joins
    assert joins.desired(first).join
    assert not joins.desired(second).join
    fleet.controller.people.revoke("s1")
    assert any("the next one does" in text for text in texts(fleet, "s1"))
    assert joins.desired(second).join
    assert founder(fleet) == "s2"
    assert "cluster-init: true" in joins.join_material(second).files[-1].content or any(
        "cluster-init" in file.content for file in joins.join_material(second).files
    )
    # It comes back as a server among others.
    fleet.controller.watch.apply_kubernetes(kube_ready(SERVERS[1]))
    with fleet.store.read() as reader:
        assert reader.value(FOUNDED) == "s2"


def test_one_that_was_told_how_may_have_founded_and_nobody_else_does(fleet: Fleet) -> None:
    first, second = (enrol(fleet, server) for server in SERVERS[:2])
    joins = fleet.controller.joins
    assert joins.desired(first).join
    joins.join_material(first)
    fleet.controller.people.revoke("s1")
    assert founder(fleet) == "s1"
    assert not joins.desired(second).join
    with fleet.store.read() as reader:
        (alarm,) = [one for one in reader.timeline(node="s1") if "may have" in one.text]
    assert alarm.kind == Kind.ALARM
    assert "bramble apply" in alarm.hint
    # A person says that it is gone for good.
    fleet.controller.declare(cluster_spec(*SERVERS[1:]))
    assert founder(fleet) is None
    assert joins.desired(second).join
    assert founder(fleet) == "s2"


def test_an_answer_that_is_under_way_when_it_is_revoked_founds_nothing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server of the same record revokes it between its question and its answer."""
    first = enrol(fleet, SERVERS[0])
    joins = fleet.controller.joins
    assert joins.desired(first).join
    founds = joins.founds

    def revoked_meanwhile(node: object) -> bool:
        found = founds(node)  # type: ignore[arg-type]
        fleet.controller.people.revoke("s1")
        return found

    monkeypatch.setattr(joins, "founds", revoked_meanwhile)
    with pytest.raises(RefusedError) as refused:
        joins.join_material(first)
    assert refused.value.code == "not-your-turn"
    assert founder(fleet) is None


def test_a_record_of_before_counts_as_told(fleet: Fleet) -> None:
    """An older version set the founder without noting whether it was told."""
    first, second = (enrol(fleet, server) for server in SERVERS[:2])
    joins = fleet.controller.joins
    assert joins.desired(first).join
    with fleet.store.write() as tx:
        tx.remove_value("k3s.founder_untold")
    fleet.controller.people.revoke("s1")
    assert founder(fleet) == "s1"
    assert not joins.desired(second).join
