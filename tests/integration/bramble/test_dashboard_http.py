"""The dashboard's door: who gets in, what a browser is told, what a form has to show."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from dashboard_client import PAGES, Browser, is_revoked
from dashboard_rack import Rack, attic, live_rack

from bramble.dashboard.guard import COOKIE
from fleet.admin_client import FleetReader
from fleet.trust.tokens import TokenRole

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("path", [*PAGES, "/nodes/pi5-master-1/confirm/revoke", "/nowhere"])
def test_nobody_sees_a_page_before_logging_in(rack: Rack, path: str) -> None:
    answer = Browser(rack).get(path)
    assert answer.status == 303
    assert answer.headers["Location"].startswith("/login?next=")
    assert b"pi5-master" not in answer.body


def test_the_stream_is_refused_before_logging_in(rack: Rack) -> None:
    assert Browser(rack).get("/live").status == 401


@pytest.mark.parametrize("path", ["/", "/login", "/nowhere", "/static/none/app.css", "/live"])
def test_every_answer_says_what_a_browser_may_do_with_it(admin: Browser, path: str) -> None:
    visitor = Browser(admin.rack) if path == "/live" else admin
    headers = visitor.get(path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert re.fullmatch(r"[0-9a-f]{16}", headers["X-Request-Id"])


def test_the_cookie_is_out_of_reach_of_scripts_other_sites_and_plain_http(rack: Rack) -> None:
    cookie = Browser(rack).log_in().headers["Set-Cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert COOKIE.startswith("__Host-")
    for word in ("HttpOnly", "Secure", "SameSite=Strict", "Path=/", "Max-Age="):
        assert word in cookie
    assert "Domain" not in cookie


def test_a_login_with_a_token_leads_where_one_was_going(rack: Rack) -> None:
    browser = Browser(rack)
    assert browser.log_in().headers["Location"] == "/nodes"
    assert browser.get("/nodes").status == 200


@pytest.mark.parametrize(
    "target", ["https://evil.invalid/", "//evil.invalid", "/\\evil.invalid", "//[", "nodes", ""]
)
def test_a_login_never_leads_to_another_site(rack: Rack, target: str) -> None:
    answer = Browser(rack).post("/login", {"token": rack.token(), "next": target})
    assert answer.headers["Location"] == "/"


@pytest.mark.parametrize(
    "token", ["", "x", "bramble_00000000_" + "0" * 64, "' or 1=1 --", "\N{SNOWMAN}" * 40]
)
def test_what_is_no_token_opens_nothing(rack: Rack, token: str) -> None:
    browser = Browser(rack)
    rack.do(lambda: None)
    answer = browser.post("/login", {"token": token, "next": "/"}, X_Forwarded_For="10.0.0.1")
    assert answer.status in (401, 429)
    assert COOKIE not in browser.cookies


def test_logins_are_slowed_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bramble.dashboard.login.LOGINS_PER_SECOND", 1e-6)
    with live_rack(tmp_path, attic(1)) as own:
        statuses = [Browser(own).post("/login", {"token": "x"}).status for _ in range(12)]
    assert statuses == [401] * 10 + [429] * 2


def test_a_link_opens_the_dashboard_once_and_looking_at_it_uses_nothing_up(rack: Rack) -> None:
    path = rack.link().removeprefix(rack.url)
    for _ in range(2):
        seen = Browser(rack).get(path)
        assert seen.status == 200
    browser = Browser(rack)
    assert browser.post(path, {}).status == 303
    assert browser.get("/").status == 200
    late = Browser(rack)
    assert late.post(path, {}).status == 410
    assert late.get("/").status == 303


def test_a_viewers_link_makes_a_viewer(rack: Rack) -> None:
    browser = Browser(rack)
    browser.post(rack.link(TokenRole.VIEWER).removeprefix(rack.url), {})
    assert browser.get("/audit").status == 403


def test_the_command_line_asks_the_socket_for_a_link(rack: Rack) -> None:
    state = Path(rack.fleet.store.place).parent  # type: ignore[arg-type]
    link = FleetReader(state).ask("POST", "/v1/admin/dashboard/links?role=viewer")
    assert link["url"].startswith(f"{rack.url}/enter/")
    assert link["role"] == "viewer"
    assert 500 < link["expires"] - time.time() <= 600


def test_a_form_without_the_sessions_own_token_does_nothing(admin: Browser) -> None:
    name = "pi5-worker-1"
    other = Browser(admin.rack)
    other.log_in()
    for csrf in ("", "x" * 43, other.get("/").csrf):
        answer = admin.post(f"/nodes/{name}/do/revoke", {"csrf": csrf, "typed": name})
        assert answer.status == 403
    assert not is_revoked(admin.rack, name)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.invalid"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/json"},
    ],
    ids=str,
)
def test_a_form_of_another_site_does_nothing(admin: Browser, headers: dict[str, str]) -> None:
    name = "pi5-worker-1"
    form = {"csrf": admin.get("/").csrf, "typed": name}
    assert admin.post(f"/nodes/{name}/do/revoke", form, **headers).status in (403, 415)
    assert not is_revoked(admin.rack, name)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"token=%ff&next=\xff", {}),
        (b"token=x", {"Content_Type": "application/x-www-form-urlencoded; charset=klingon"}),
        (b"no gzip", {"Content_Encoding": "gzip"}),
    ],
    ids=["bytes", "charset", "gzip"],
)
def test_a_form_that_cannot_be_read_is_the_senders_mistake(
    rack: Rack, body: bytes, headers: dict[str, str]
) -> None:
    kind = {"Content_Type": "application/x-www-form-urlencoded"}
    assert Browser(rack).ask("POST", "/login", body, **{**kind, **headers}).status == 400


def test_a_form_that_is_too_large_is_not_read(admin: Browser) -> None:
    assert admin.post("/theme", {"theme": "x" * 100_000}).status == 413


def test_a_viewer_sees_no_button_and_can_do_nothing_without_one(rack: Rack) -> None:
    viewer = Browser(rack)
    viewer.log_in(TokenRole.VIEWER)
    page = viewer.get("/nodes/pi5-worker-1")
    assert page.status == 200
    assert "/do/" not in page.text
    assert "/confirm/" not in page.text
    form = {"csrf": page.csrf, "typed": "pi5-worker-1"}
    assert viewer.post("/nodes/pi5-worker-1/do/revoke", form).status == 403
    assert viewer.get("/nodes/pi5-worker-1/confirm/revoke").status == 403
    assert viewer.get("/audit").status == 403
    assert not is_revoked(rack, "pi5-worker-1")


def test_logging_out_ends_the_session_everywhere(admin: Browser) -> None:
    stolen = Browser(admin.rack, dict(admin.cookies))
    assert admin.post("/logout", {"csrf": admin.get("/").csrf}).status == 303
    assert stolen.get("/").status == 303


def test_a_revoked_token_ends_its_sessions(rack: Rack) -> None:
    browser = Browser(rack)
    secret = rack.token(name="short-lived")
    browser.post("/login", {"token": secret})
    assert browser.get("/").status == 200
    rack.do(lambda: rack.fleet.controller.tokens.revoke("short-lived"))
    assert browser.get("/").status == 303


def test_a_revoked_token_ends_what_its_links_opened(rack: Rack) -> None:
    made = rack.do(lambda: rack.fleet.controller.tokens.create("for-the-wall", TokenRole.ADMIN)[0].id)
    links = rack.fleet.controller.login_links
    url = rack.do(lambda: links.make("token for-the-wall", TokenRole.VIEWER, made)[0])
    browser = Browser(rack)
    assert browser.post(url.removeprefix(rack.url), {}).status == 303
    assert browser.get("/").status == 200
    rack.do(lambda: rack.fleet.controller.tokens.revoke("for-the-wall"))
    assert browser.get("/").status == 303


def test_a_new_login_has_another_name_than_the_session_before(admin: Browser) -> None:
    before = Browser(admin.rack, dict(admin.cookies))
    admin.log_in()
    assert admin.cookies[COOKIE] != before.cookies[COOKIE]
    assert before.get("/").status == 303


def test_what_a_page_asks_for_by_itself_keeps_no_session_alive(rack: Rack, admin: Browser) -> None:
    def used() -> float:
        session = rack.site.sessions.find(admin.cookies[COOKIE], time.time(), is_use=False)
        assert session is not None
        return session.used

    assert admin.get("/upkeep").status == 200
    before = used()
    assert admin.get("/upkeep", X_Part="1").status == 200
    assert used() == before
    assert admin.get("/upkeep").status == 200
    assert used() > before
