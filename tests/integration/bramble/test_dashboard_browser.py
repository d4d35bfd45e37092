"""The dashboard in a real browser: what a person sees and does, while boards are at work."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from dashboard_browser import (
    Theme,
    Watched,
    at_a_desk,
    chromium,
    come_in,
    in_pieces,
    sideways,
    violations,
    visitor,
)
from dashboard_client import PAGES
from dashboard_rack import Rack, attic, furnish, live_rack
from fakes_cluster import pod
from fakes_fleet import node_spec
from fleet_story import KEY, ask_to_install, complete
from playwright.sync_api import Browser, expect

from agent.proofs import fingerprint
from agent.protocol import InstallProgress, InstallStep, Outcome
from fleet.boards import MacAddress
from fleet.boots import BootReport, BootStage
from fleet.trust.tokens import TokenRole

pytestmark = pytest.mark.integration

EVERY_PAGE = (
    *PAGES,
    "/nodes/pi4-worker-3",
    "/nodes/abcd004d",
    "/nodes/pi5-master-1/confirm/revoke",
    "/nodes/pi5-worker-1/confirm/replace",
    "/nodes/pi5-worker-1/confirm/reimage",
)
WIDTHS = (360, 768, 1280, 2560)


@pytest.fixture(scope="module")
def rack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rack]:
    """Eight nodes as on a day of setting up, and some more for tests that change them."""
    with live_rack(tmp_path_factory.mktemp("rack"), attic(14)) as rack:
        furnish(rack)
        yield rack


@pytest.fixture(scope="module")
def browser(rack: Rack) -> Iterator[Browser]:
    """Gone before the server is: Chromium keeps connections for later."""
    assert rack.port
    with chromium() as browser:
        yield browser


@pytest.fixture
def admin(browser: Browser, rack: Rack) -> Iterator[Watched]:
    with at_a_desk(browser, rack) as admin:
        yield admin


def test_a_held_server_is_approved_by_its_fingerprint(admin: Watched, rack: Rack) -> None:
    page, server = admin.page, rack.node("pi5-master-3")
    admin.go("/")
    card = page.locator('[data-group="attention"] #n-pi5-master-3')
    expect(card).to_contain_text("waits for your approval")
    card.get_by_role("link").click()
    expect(page.locator(".fingerprint")).to_have_text(fingerprint(hashlib.sha256(KEY).hexdigest()))
    page.get_by_role("button", name="It does: approve").click()
    expect(page.get_by_role("status").first).to_contain_text("pi5-master-3 is approved")
    assert rack.do(lambda: ask_to_install(rack.fleet, server)).outcome is Outcome.ADMITTED
    expect(page.locator(".way .here")).to_contain_text("Install")


def test_an_installation_is_watched_without_a_reload(admin: Watched, rack: Rack) -> None:
    admin.go("/")
    page = admin.page
    page.evaluate("window.neverReloaded = true")
    card = page.locator("#n-pi4-worker-7")
    expect(page.locator('[data-group="waiting"]').locator("#n-pi4-worker-7")).to_be_visible()
    token = rack.do(lambda: rack.begin(rack.node("pi4-worker-7")))
    expect(page.locator('[data-group="working"]').locator("#n-pi4-worker-7")).to_be_visible()
    for percent in (20, 60):
        rack.do(lambda: rack.write(token, percent, _step(percent)))  # noqa: B023  (done before the next)
        expect(card.locator("progress")).to_have_attribute("value", str(percent))
        expect(card).to_contain_text(f"{percent} %")

    def end() -> None:
        plan = rack.fleet.controller.installs.plan(token)
        rack.fleet.controller.installs.complete(token, complete(plan))

    rack.do(end)
    expect(card).to_contain_text("boots its disk")
    expect(card.locator("progress")).to_have_count(0)
    expect(page.locator("#lines")).to_contain_text("installed and verified")
    assert page.evaluate("window.neverReloaded") is True


def _step(percent: int) -> InstallStep:
    return InstallStep.WRITE if percent < 50 else InstallStep.VERIFY


def test_an_error_is_explained_with_its_mend_on_a_page_that_is_open(admin: Watched, rack: Rack) -> None:
    token = rack.do(lambda: rack.begin(rack.node("pi4-worker-8")))
    admin.go("/nodes/pi4-worker-8")
    page = admin.page
    expect(page.get_by_role("list", name="Way to Ready")).to_contain_text("Install")
    failed = InstallProgress(
        1,
        InstallStep.WRITE,
        12.0,
        message="the disk is full of errors",
        hint="Replace the disk.",
        failed=True,
    )
    rack.do(lambda: rack.fleet.controller.installs.progress(token, failed))
    trouble = page.locator(".trouble")
    expect(trouble).to_contain_text("the disk is full of errors")
    expect(trouble).to_contain_text("Replace the disk.")
    expect(page.locator(".way .failed")).to_have_text("Install: failed")


def test_what_the_boot_server_finds_is_shown_with_what_to_do(admin: Watched, rack: Rack) -> None:
    """A Pi 5 that asks for an old family's files over and over."""
    node = rack.node("pi4-worker-9")

    def boot_in_vain() -> None:
        for _ in range(4):
            rack.boot(node, (("config.txt", None), ("start4.elf", None), ("pieeprom.sig", None)))

    rack.do(boot_in_vain)
    admin.go("/nodes/pi4-worker-9")
    expect(admin.page.locator("#files")).to_contain_text("start4.elf")
    expect(admin.page.locator("#files")).to_contain_text("no such file")


def test_what_destroys_asks_for_the_name(admin: Watched, rack: Rack) -> None:
    page = admin.page
    admin.go("/nodes/pi5-worker-1")
    page.get_by_role("link", name="Revoke…").click()
    button = page.get_by_role("button", name="Revoke pi5-worker-1")
    expect(button).to_be_disabled()
    field = page.get_by_label("Type pi5-worker-1 to go on")
    expect(field).to_be_focused()
    field.fill("pi5-worker-2")
    expect(button).to_be_disabled()
    field.fill("pi5-worker-1")
    button.click()
    expect(page.get_by_role("status").first).to_contain_text("is revoked")
    expect(page.get_by_role("button", name="Lift the revocation")).to_be_visible()


def test_a_node_is_re_imaged_after_its_name_is_typed(admin: Watched, rack: Rack) -> None:
    page, node = admin.page, rack.node("pi4-worker-11")
    rack.do(lambda: rack.make_ready(node))
    admin.go("/nodes/pi4-worker-11")
    page.get_by_role("link", name="Re-image…").click()
    expect(page.locator(".steps")).to_contain_text("draining")
    button = page.get_by_role("button", name="Re-image pi4-worker-11")
    expect(button).to_be_disabled()
    page.get_by_label("Why, for the record").fill("its disk is worn")
    page.get_by_label("Type pi4-worker-11 to go on").fill("pi4-worker-11")
    button.click()
    expect(page.get_by_role("status").first).to_contain_text("of pi4-worker-11 is ordered")
    expect(page.locator("h1 + p")).to_contain_text("restarts into the installer")
    expect(page.locator("#orders")).to_contain_text("its disk is worn")
    assert "pi4-worker-11" not in rack.do(lambda: dict(rack.kube.seen))
    rack.do(lambda: rack.install_again(node))
    expect(page.locator("h1 + p")).to_contain_text("ready")
    expect(page.locator("#orders .kind")).to_have_text("done")
    admin.go("/audit")
    expect(page.locator("table")).to_contain_text("orderReimage")


def test_a_re_image_is_called_off_while_that_is_possible(admin: Watched, rack: Rack) -> None:
    page, node = admin.page, rack.node("pi4-worker-5")
    rack.do(lambda: rack.make_ready(node))

    def hold() -> None:
        rack.kube.pods[node.name] = [pod("stubborn", finalizers=("x.io/never",))]

    rack.do(hold)
    rack.do(lambda: rack.fleet.controller.reimages.request(node.name, by="me"))
    admin.go(f"/nodes/{node.name}")
    expect(page.locator("h1 + p")).to_contain_text("hands its pods over")
    page.get_by_role("button", name="Call it off").click()
    expect(page.locator("#orders .kind")).to_have_text("cancelled")
    expect(page.locator("h1 + p")).to_contain_text("ready")


def test_what_stands_against_a_re_image_is_said_before_it_is_ordered(admin: Watched, rack: Rack) -> None:
    """The cluster does not answer."""

    def silence(answers: bool) -> None:
        rack.kube.answers = answers

    rack.do(lambda: silence(False))
    try:
        admin.go("/nodes/pi5-worker-1/confirm/reimage")
        expect(admin.page.locator(".trouble.error")).to_contain_text("Kubernetes API does not answer")
        admin.page.get_by_label("Type pi5-worker-1 to go on").fill("pi5-worker-1")
        admin.page.get_by_role("button", name="Re-image pi5-worker-1").click()
        expect(admin.page.get_by_role("status").first).to_contain_text("pi5-worker-1 stays as it is")
    finally:
        rack.do(lambda: silence(True))


def test_etcds_members_are_asked_beside_the_page(admin: Watched) -> None:
    admin.go("/cluster")
    members = admin.page.get_by_role("region", name="Members of etcd")
    expect(members).to_contain_text("leader")
    expect(members.get_by_role("rowheader", name="pi5-master-2")).to_be_visible()


def test_without_scripts_everything_can_be_done(browser: Browser, rack: Rack) -> None:
    with visitor(browser, rack.url, java_script_enabled=False) as plain:
        page = plain.page
        page.goto(rack.link())
        page.get_by_role("button", name="Open the dashboard").click()
        page.get_by_role("link", name="pi5-master-2").first.click()
        page.get_by_role("link", name="Forget its board…").click()
        page.get_by_label("Type pi5-master-2 to go on").fill("pi5-master-1")
        page.get_by_role("button", name="Forget its board pi5-master-2").click()
        expect(page.get_by_role("alert").last).to_have_text("Type pi5-master-2 to go on.")
        page.get_by_label("Type pi5-master-2 to go on").fill("pi5-master-2")
        page.get_by_role("button", name="Forget its board pi5-master-2").click()
        expect(page.get_by_role("status").first).to_contain_text("are forgotten")
        plain.complaints = [text for text in plain.complaints if "422" not in text]


def test_a_token_logs_in_and_a_button_logs_out(browser: Browser, rack: Rack) -> None:
    with visitor(browser, rack.url) as person:
        page = person.page
        page.goto(f"{rack.url}/cluster")
        page.get_by_label("Token").fill("bramble_wrong")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert").last).to_have_text("No token like this is in force.")
        person.complaints.clear()  # Chromium reports the 401
        page.get_by_label("Token").fill(rack.token())
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"{rack.url}/cluster")
        page.get_by_role("button", name="Log out").click()
        page.wait_for_url(f"{rack.url}/login")
        page.goto(f"{rack.url}/nodes")
        assert page.url.startswith(f"{rack.url}/login")


def test_a_viewer_looks_and_cannot_act(browser: Browser, rack: Rack) -> None:
    with visitor(browser, rack.url) as viewer:
        come_in(viewer, rack, TokenRole.VIEWER)
        viewer.go("/nodes/pi5-master-1")
        expect(viewer.page.get_by_role("link", name="Revoke…")).to_have_count(0)
        expect(viewer.page.get_by_role("link", name="Audit")).to_have_count(0)


def test_a_token_that_is_revoked_closes_the_page(browser: Browser, rack: Rack) -> None:
    with visitor(browser, rack.url) as person:
        page = person.page
        page.goto(f"{rack.url}/login")
        page.get_by_label("Token").fill(rack.token(name="leaked"))
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("#pulse")).to_have_text("live")
        rack.do(lambda: rack.fleet.controller.tokens.revoke("leaked"))
        page.wait_for_url(f"{rack.url}/login?next=%2F")


def test_a_lost_connection_is_said_and_what_was_missed_is_made_up_for(admin: Watched, rack: Rack) -> None:
    page = admin.page
    admin.go("/")
    expect(page.locator("#pulse")).to_have_text("live")
    page.evaluate("document.querySelector('#lines .line').isOfBefore = true")
    page.route("**/live?*", lambda route: route.abort())
    rack.do(rack.cut)
    expect(page.locator("#offline")).to_contain_text("The connection is lost")

    missed = "5e31-8f8c-f9cb-e249-a308"

    def meanwhile() -> None:
        rack.site.feed.name = "0badcafe"  # as after a restart: it tells everything again
        with rack.fleet.store.write() as tx:
            tx.update_node(tx.require_node("pi4-worker-4"), detail=f"missed {missed}")

    rack.do(meanwhile)
    page.unroute("**/live?*")
    expect(page.locator("#pulse")).to_have_text("live")
    expect(page.locator("#n-pi4-worker-4")).to_contain_text(f"missed {missed}")
    expect(page.locator("#n-pi4-worker-4 .d .whole")).to_have_text(missed)  # for a phone
    lines = "[...document.querySelectorAll('#lines .line')]"
    assert page.evaluate(f"{lines}.some((line) => line.isOfBefore)"), "no line is told twice"
    expect(page.locator("#offline")).to_be_hidden()


def test_a_page_whose_session_went_with_the_server_leads_to_the_login(browser: Browser, rack: Rack) -> None:
    with visitor(browser, rack.url) as person:
        come_in(person, rack)

        names = [str(cookie.get("value")) for cookie in person.page.context.cookies()]

        def restart() -> None:
            for name in names:
                session = rack.site.sessions.find(name, rack.site.clock())
                if session is not None:
                    rack.site.sessions.close(session)
            rack.cut()

        rack.do(restart)
        person.page.wait_for_url(f"{rack.url}/login?next=%2F")
        person.complaints = [text for text in person.complaints if "401" not in text]


def test_what_changed_where_somebody_was_at_it_is_made_up_for(admin: Watched, rack: Rack) -> None:
    page, name = admin.page, "pi4-worker-6"
    admin.go(f"/nodes/{name}")
    revoke = page.get_by_role("link", name="Revoke…")
    revoke.focus()
    expect(page.locator("#pulse")).to_have_text("live")
    rack.do(lambda: rack.fleet.controller.people.revoke(name))
    expect(page.get_by_role("button", name="Lift the revocation")).to_be_visible()
    expect(revoke).to_be_focused()
    page.locator(".brand").focus()
    expect(revoke).to_have_count(0)


def test_a_board_that_appears_is_on_the_page_at_once(admin: Watched, rack: Rack) -> None:
    admin.go("/")
    stranger = node_spec("other", 78)
    report = BootReport(
        stage=BootStage.SEEN,
        at=rack.fleet.clock(),
        serial=stranger.serial,
        mac=MacAddress.parse("d8:3a:dd:00:78:01"),
        model="Raspberry Pi 5 Model B",
        text="asks for an address",
    )
    rack.do(lambda: rack.fleet.controller.record_boot_event(report))
    expect(admin.page.locator("#held")).to_contain_text("abcd004e")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_is_accessible_in_both_themes(browser: Browser, rack: Rack, theme: Theme) -> None:
    with visitor(browser, rack.url, color_scheme=theme, reduced_motion="reduce") as person:
        person.page.goto(f"{rack.url}/login")
        found = {"/login": violations(person.page)}
        come_in(person, rack)
        for path in EVERY_PAGE:
            person.go(path)
            found[path] = violations(person.page)
    assert {path: faults for path, faults in found.items() if faults} == {}


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_the_window_and_fingerprints_stay_whole(
    browser: Browser, rack: Rack, width: int
) -> None:
    with visitor(browser, rack.url, viewport={"width": width, "height": 800}) as person:
        come_in(person, rack)
        wider, broken = {}, {}
        for path in EVERY_PAGE:
            person.go(path)
            wider[path], broken[path] = sideways(person.page), in_pieces(person.page)
    assert {path: pixels for path, pixels in wider.items() if pixels} == {}
    assert {path: names for path, names in broken.items() if names} == {}


def test_the_theme_that_is_chosen_stays(admin: Watched) -> None:
    page = admin.page
    admin.go("/cluster")
    root = page.locator("html")
    before = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    page.get_by_role("button", name="Dark theme").click()
    expect(root).to_have_attribute("data-theme", "dark")
    assert page.url.endswith("/cluster")
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") != before
    admin.go("/")
    expect(root).to_have_attribute("data-theme", "dark")
    page.get_by_role("button", name="Light theme").click()
    expect(root).to_have_attribute("data-theme", "light")


def test_the_keyboard_is_enough(admin: Watched) -> None:
    page = admin.page
    admin.go("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    for _ in range(page.locator("#alerts a").count() + 1):  # what is wrong comes before the boards
        page.keyboard.press("Tab")
    focused = page.evaluate("document.activeElement.closest('.card').id")
    assert focused.startswith("n-")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{admin.url}/nodes/*")


def test_a_change_keeps_the_focus_where_it_was(admin: Watched, rack: Rack) -> None:
    admin.go("/")
    link = admin.page.locator("#n-pi4-worker-10 a")
    link.focus()
    token = rack.do(lambda: rack.begin(rack.node("pi4-worker-10")))
    expect(admin.page.locator('[data-group="working"] #n-pi4-worker-10')).to_be_visible()
    expect(link).to_be_focused()
    assert token


def test_what_is_found_by_a_filter_is_what_was_asked_for(admin: Watched) -> None:
    page = admin.page
    admin.go("/events")
    page.get_by_label("Node or board").fill("pi4-worker-3")
    page.get_by_label("Kind").select_option("install")
    page.get_by_role("button", name="Show").click()
    lines = page.locator(".line")
    expect(lines.first).to_contain_text("no USB disk found")
    assert {text for text in page.locator(".line .kind").all_inner_texts()} == {"install"}
    admin.go("/nodes?group=ready")
    assert "pi5-master-1" in page.locator("table").inner_text()
    assert "pi4-worker-3" not in page.locator("table").inner_text()
