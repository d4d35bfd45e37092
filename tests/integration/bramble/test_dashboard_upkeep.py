"""Upkeep in a real browser: a rollout is begun and watched, a log is followed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dashboard_browser import (
    Theme,
    Watched,
    at_a_desk,
    chromium,
    come_in,
    sideways,
    violations,
    visitor,
)
from dashboard_rack import NEW, Rack, live_rack
from fakes_fleet import cluster_spec, node_spec
from playwright.sync_api import Browser, expect

from agent.errands import LogUpload
from fleet.spec.model import Role

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def rack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rack]:
    """Three agents and their server that are Ready."""
    agents = (node_spec(f"pi-{number}", number) for number in range(1, 4))
    spec = cluster_spec(*agents, node_spec("s-1", 9, role=Role.SERVER))
    with live_rack(tmp_path_factory.mktemp("rack"), spec) as rack:
        rack.do(lambda: rack.make_ready(*spec.nodes))
        yield rack


@pytest.fixture(scope="module")
def browser(rack: Rack) -> Iterator[Browser]:
    assert rack.port
    with chromium() as browser:
        yield browser


@pytest.fixture
def admin(browser: Browser, rack: Rack) -> Iterator[Watched]:
    with at_a_desk(browser, rack) as admin:
        yield admin


def test_a_rollout_is_begun_and_watched_without_a_reload(admin: Watched, rack: Rack) -> None:
    page = admin.page
    admin.go("/upkeep")
    page.get_by_role("link", name="Begin a rollout…").click()
    page.get_by_label("Image").select_option(NEW)
    page.get_by_label("Goes first, alone").select_option("pi-2")
    page.get_by_label("Watched for, before the others follow").select_option("0")
    page.get_by_role("button", name="Show what would follow").click()
    expect(page.locator(".order li").first).to_contain_text("pi-2")
    begin = page.get_by_role("button", name="Begin the rollout")
    expect(begin).to_be_disabled()
    page.get_by_label("Type attic to go on").fill("attic")
    begin.click()
    expect(page.get_by_role("status").first).to_contain_text(
        "image 1c0ffee11c0f goes to 4 node(s), pi-2 first"
    )
    page.evaluate("window.neverReloaded = true")
    line = page.locator("#rollout tr", has=page.get_by_role("link", name="pi-2", exact=True))
    expect(line).to_contain_text("restarts into the installer")
    expect(page.locator("#lock")).to_contain_text("pi-2")
    rack.do(lambda: rack.install_again(rack.node("pi-2")))
    expect(line).to_contain_text("has it")
    expect(page.locator("#upkeep-head")).to_contain_text("1 of 4 nodes have it")
    expect(page.locator("#rollout")).to_contain_text("left")
    assert page.evaluate("window.neverReloaded") is True
    admin.go("/")
    expect(page.locator("#alerts")).to_contain_text("Rollout 1: 1 of 4 nodes have image")
    admin.go("/upkeep")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#upkeep-head")).to_contain_text("is paused")
    page.get_by_role("link", name="Abort…").click()
    page.get_by_role("button", name="Abort the rollout").click()
    expect(page.locator("#upkeep-head")).not_to_contain_text("is paused")
    expect(page.get_by_role("link", name="Begin a rollout…")).to_be_visible()


def test_a_log_is_followed_and_stays_at_its_end(admin: Watched, rack: Rack) -> None:
    page, errands = admin.page, rack.fleet.controller.errands
    with rack.fleet.store.read() as reader:
        node = reader.require_node("pi-3")

    def send(*lines: str) -> bool:
        number = errands.number_for("pi-3")
        if number:
            errands.take(node, LogUpload(number, lines, cursor=f"c{number}"))
        return bool(number)

    admin.go("/nodes/pi-3")
    page.get_by_role("link", name="Read its log").click()
    page.get_by_role("button", name="Ask for its log").click()
    expect(page.locator("#log")).to_contain_text("answers with its next report")
    assert rack.do(lambda: send(*(f"line {number}" for number in range(200))))
    lines = page.locator("#log-lines")
    expect(lines).to_contain_text("line 199")
    page.get_by_role("link", name="Follow").click()
    expect(page.get_by_role("link", name="Stop following")).to_be_visible()
    page.wait_for_function("document.getElementById('log-lines') !== null")
    assert rack.do(lambda: send("a line of later"))
    expect(lines).to_contain_text("a line of later")
    rest = "(list) => list.scrollHeight - list.scrollTop - list.clientHeight"
    assert lines.evaluate(rest) < 40
    assert lines.evaluate("(list) => list.scrollTop") > 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_pages_are_accessible_and_no_wider_than_a_phone(
    browser: Browser, rack: Rack, theme: Theme
) -> None:
    found, wider = {}, {}
    with visitor(browser, rack.url, color_scheme=theme, reduced_motion="reduce") as person:
        come_in(person, rack)
        for path in ("/upkeep", "/upkeep/rollout?plan=1", "/nodes/pi-3/log", "/upkeep/confirm/abort"):
            person.page.set_viewport_size({"width": 1280, "height": 900})
            person.go(path)
            found[path] = violations(person.page)
            person.page.set_viewport_size({"width": 360, "height": 800})
            wider[path] = sideways(person.page)
    assert {path: faults for path, faults in found.items() if faults} == {}
    assert {path: pixels for path, pixels in wider.items() if pixels} == {}
