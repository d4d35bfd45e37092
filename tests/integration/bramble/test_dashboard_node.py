"""The page of a node says what to mend, and what Bramble would do about it by itself."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboard_client import Browser, admin_of
from dashboard_rack import Rack, WallClock, live_rack
from fakes_fleet import cluster_spec, node_spec
from fleet_story import see

from agent.protocol import InstallProgress, InstallStep
from fleet.boots import BootStage
from fleet.lifecycle import MAX_ATTEMPTS, Happening, State
from fleet.timeline import Entry, Kind
from fleet.trust.tokens import TokenRole

pytestmark = pytest.mark.integration

MEND = "Reseat the disk and its flat cable."


@pytest.fixture
def rack(tmp_path: Path) -> Iterator[Rack]:
    """Two agents."""
    with live_rack(tmp_path, cluster_spec(node_spec("pi-1", 1), node_spec("pi-2", 2))) as own:
        yield own


def fail(rack: Rack, name: str) -> None:
    """Its installation fails; to be called with `do`."""
    token = rack.begin(rack.node(name))
    failed = InstallProgress(
        1, InstallStep.FIND_DISK, 0.0, message="no NVMe disk found", hint=MEND, failed=True
    )
    rack.fleet.controller.installs.progress(token, failed)


def page_of(person: Browser, name: str) -> str:
    answer = person.get(f"/nodes/{name}")
    assert answer.status == 200
    return html.unescape(answer.text)


def troubles(page: str) -> str:
    return page[page.index('id="troubles"') : page.index('class="columns"')]


def test_the_mend_of_a_failed_installation_stays_until_it_is_mended(rack: Rack) -> None:
    admin, clock = admin_of(rack), rack.fleet.clock
    assert isinstance(clock, WallClock)
    clock.back = 400.0
    rack.do(lambda: fail(rack, "pi-1"))
    first = troubles(page_of(admin, "pi-1"))
    assert first.count("no NVMe disk found") == 1
    assert first.count(MEND) == 1

    def boot_again(ago_s: float) -> None:
        clock.back = ago_s
        see(rack.fleet, rack.node("pi-1"), BootStage.KERNEL)

    rack.do(lambda: boot_again(300.0))
    again = troubles(page_of(admin, "pi-1"))
    assert MEND in again
    assert "trouble warning" in again
    for number in range(MAX_ATTEMPTS - 1):
        rack.do(lambda: boot_again(200.0 - number * 100.0))  # noqa: B023  (done before the next)
    last = troubles(page_of(admin, "pi-1"))
    assert "Quarantined: " in last
    assert MEND in last
    assert "bramble approve pi-1" in last


def lose(rack: Rack, name: str) -> None:
    """The record says that its agent is silent; to be called with `do`."""
    with rack.fleet.store.write() as tx:
        entry = Entry(kind=Kind.STATE, text="lost: no status for 300 s")
        tx.move(tx.require_node(name), Happening.FELL_SILENT, entry, rack.fleet.clock())


@pytest.mark.parametrize("role", [TokenRole.ADMIN, TokenRole.VIEWER])
def test_whether_the_policy_would_re_image_it_stands_on_its_page(rack: Rack, role: TokenRole) -> None:
    rack.do(lambda: rack.make_ready(rack.node("pi-1"), rack.node("pi-2")))
    person = Browser(rack)
    person.log_in(role)
    well = page_of(person, "pi-1")
    assert "Re-imaged by itself?" in well
    assert "No: it is well" in well
    assert "its agent reports" in well
    rack.do(lambda: lose(rack, "pi-1"))
    with rack.fleet.store.read() as reader:
        assert reader.require_node("pi-1").state is State.LOST
    lost = page_of(person, "pi-1")
    assert "Not yet: it counts as failed in 15 min" in lost
    assert "Kubernetes does not answer" in lost


def test_a_board_of_no_node_is_not_judged(rack: Rack) -> None:
    rack.do(lambda: see(rack.fleet, node_spec("stranger", 77)))
    page = page_of(admin_of(rack), "abcd004d")
    assert "This board belongs to no node" in page
    assert "Re-imaged by itself?" not in page
