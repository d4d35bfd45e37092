"""The dashboard in a real browser over a live lab: `bramble serve`, boards that QEMU runs, and Chromium.

One person acts with a browser and nothing else; a screen on the wall only looks, and is never loaded again.
Page by page it is tried with simulated boards, in tests/integration/bramble/test_dashboard_browser.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

import pytest
from dashboard_browser import Watched, chromium, visitor
from playwright.sync_api import Browser, expect

from bramble.rehearsal import Rehearsal
from fleet.spec.model import ClusterSpec
from fleet.trust.tokens import TokenRole
from lab.events import EventKind

pytestmark = pytest.mark.e2e

SERVER, AGENT, FORGOTTEN = "pi5-server", "cm5-agent", "pi4-agent"
READY_S: Final = 900.0
REIMAGE_S: Final = 600.0
SLOW_MS: Final = 90_000
"""A page follows the record within a second or two; boards that boot leave little of two cores for it."""

INSTALLED = ("is being installed", "boots its disk", "joins the cluster", "ready")
ANEW = ("restarts into the installer", "is being installed")
KEEP_A_DIARY = """() => {
  window.diary = {};
  const text = (card, part) => card.querySelector(part)?.textContent ?? "";
  const look = () => document.querySelectorAll(".card[id^='n-']").forEach((card) => {
    const now = [card.closest("[data-group]").dataset.group, text(card, ".w"), text(card, ".d")];
    const pages = (window.diary[card.id.slice(2)] ??= []);
    if (pages.at(-1)?.join() !== now.join()) pages.push(now);
  });
  look();
  new MutationObserver(look).observe(document.querySelector("main"), {
    subtree: true, childList: true, characterData: true, attributes: true,
  });
}"""
"""Keeps what each card says, change by change, in the page itself: it is gone if the page is loaded again."""


def test_a_browser_is_enough_from_the_first_sign_of_life_to_the_second_installation(
    rehearse: Callable[[ClusterSpec], Rehearsal], cluster_of: Callable[..., ClusterSpec]
) -> None:
    lab = rehearse(cluster_of(pi5_server={}, pi4_agent={}, cm5_agent={}))
    with chromium() as browser:
        expect.set_options(timeout=SLOW_MS)
        with logged_in(browser, lab, TokenRole.VIEWER) as wall, logged_in(browser, lab) as person:
            wall.page.evaluate(KEEP_A_DIARY)
            expect(wall.page.locator("#head h1")).to_have_text("Switch a board on")
            for name in (SERVER, AGENT):
                switch_on(lab, name)

            be_told_that_a_card_was_forgotten(lab, person)
            approve(lab, person)
            for name in (SERVER, AGENT):
                lab.wait_for_state(name, "ready", timeout_s=READY_S)
                expect(wall.page.locator(f'[data-group="ready"] #n-{name}')).to_be_visible()
            order_a_second_installation(lab, person)

            diary: dict[str, list[list[str]]] = wall.page.evaluate("window.diary")
            person.go("/audit")
            expect(person.page.locator("table")).to_contain_text("orderReimage")
            expect(person.page.locator("table")).to_contain_text("approve")

    assert diary[SERVER][0] == ["waiting", "not switched on yet", ""]
    require_in_order(diary[SERVER], ("boots the installer", "waits for your approval", *INSTALLED))
    require_in_order(diary[AGENT], ("boots the installer", *INSTALLED, *ANEW))
    for name in (SERVER, AGENT):
        assert len(percents(diary[name])) >= 3, diary[name]
        assert lab.count_installs(name) == 1
    assert lab.stop_server() == 0, "also with pages that were open a moment ago"


@contextmanager
def logged_in(browser: Browser, lab: Rehearsal, role: TokenRole = TokenRole.ADMIN) -> Iterator[Watched]:
    """Somebody who followed a link of `bramble dashboard`, at the rack's page."""
    link = lab.admin.ask("POST", f"/v1/admin/dashboard/links?role={role.value}")["url"]
    place = urlsplit(link)
    size = {"width": 1360, "height": 900}
    # What moves on a page costs the boards their processors.
    look = {"viewport": size, "reduced_motion": "reduce"}
    with visitor(browser, f"{place.scheme}://{place.netloc}", **look) as somebody:
        somebody.page.set_default_timeout(SLOW_MS)
        somebody.page.goto(link)
        somebody.page.get_by_role("button", name="Open the dashboard").click()
        expect(somebody.page.locator("#pulse")).to_have_text("live")
        yield somebody


def switch_on(lab: Rehearsal, name: str) -> None:
    node = lab.spec.find_node(name)
    assert node is not None
    lab.add_board(node).power_on()


def be_told_that_a_card_was_forgotten(lab: Rehearsal, person: Watched) -> None:
    """A card was written for this node, as `bramble flash` does, and lies on the desk: the board finds no
    disk, and goes round its boot order. It never comes to a kernel."""
    handout = lab.admin.begin_handout(FORGOTTEN)
    lab.admin.finish_handout(FORGOTTEN, handout.intent, image_id="ab" * 32, medium="a card")
    page, node = person.page, lab.spec.find_node(FORGOTTEN)
    assert node is not None
    person.go(f"/nodes/{FORGOTTEN}")
    expect(page.locator("h1 + p")).to_contain_text("disk is written; switch it on")
    expect(page.locator(".trouble")).to_have_count(0)

    board = lab.add_board(node, disks=())
    board.power_on()
    trouble = page.locator(".trouble", has_text="over and over")
    expect(trouble).to_contain_text("finds nothing else to boot")
    expect(trouble.locator(".mend")).to_contain_text("Is there a disk")
    expect(trouble.locator(".mend")).to_contain_text("Is it in BOOT_ORDER?")
    expect(trouble.locator(".evidence")).to_contain_text("start4.elf")
    expect(page.locator("#files .missing").first).to_contain_text("it boots its own disk")
    board.power_cut()
    assert all(event.kind is not EventKind.KERNEL_STARTED for event in board.events)


def approve(lab: Rehearsal, person: Watched) -> None:
    """Compare what the page shows with the board's own screen, and say that it is the same."""
    page = person.page
    lab.wait_for_state(SERVER, "pending", timeout_s=READY_S)
    person.go("/")
    card = page.locator(f'[data-group="attention"] #n-{SERVER}')
    expect(card).to_contain_text("waits for your approval")
    card.get_by_role("link").click()
    shown = page.locator(".fingerprint").inner_text()
    # The server knows that it waits a moment before the board's screen says so.
    assert lab.boards[SERVER].console.wait_for(f"fingerprint {shown}", timeout_s=60)
    assert lab.disk_is_blank(SERVER), "nothing is written before a person has approved"
    page.get_by_role("button", name="It does: approve").click()
    expect(page.get_by_role("status").first).to_contain_text(f"{SERVER} is approved")
    expect(page.locator(".way .here")).to_contain_text("Install")
    expect(page.locator("progress.wide")).to_be_visible()


def order_a_second_installation(lab: Rehearsal, person: Watched) -> None:
    """The name has to be typed; then the page follows the node out of its cluster into the installer."""
    page = person.page
    person.go(f"/nodes/{AGENT}")
    page.get_by_role("link", name="Re-image…").click()
    expect(page.locator(".steps")).to_contain_text("draining")
    expect(page.locator(".trouble.error")).to_have_count(0)
    button = page.get_by_role("button", name=f"Re-image {AGENT}")
    expect(button).to_be_disabled()
    page.get_by_label("Why, for the record").fill("its disk is worn")
    page.get_by_label(f"Type {AGENT} to go on").fill(AGENT)
    button.click()
    expect(page.get_by_role("status").first).to_contain_text(f"of {AGENT} is ordered")
    expect(page.locator("#orders")).to_contain_text("its disk is worn")
    page.evaluate("window.neverReloaded = true")
    lab.wait_for_state(AGENT, "imaging", timeout_s=REIMAGE_S)
    expect(page.locator("h1 + p")).to_contain_text("is being installed")
    expect(page.locator("progress.wide")).to_be_visible()
    expect(page.locator("#orders")).to_contain_text("reboot to installer")
    assert page.evaluate("window.neverReloaded") is True


def require_in_order(story: Sequence[Sequence[str]], words: Sequence[str]) -> None:
    """Each of `words` was on the card, one after the other; others may stand between them."""
    said = iter([page[1] for page in story])
    for word in words:
        assert any(word == one for one in said), f"{word!r} was not on the card in its turn: {story}"


def percents(story: Sequence[Sequence[str]]) -> set[str]:
    """The different percentages that a card showed while the disk was written and read back."""
    return {page[2] for page in story if page[1] == "is being installed" and page[2].endswith(" %")}
