"""The dashboard's door: who gets in, what a browser is told, what a form has to show."""

from __future__ import annotations

import http.client
import json
import re
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import urlencode

import pytest
from dashboard_rack import Rack, attic, furnish, live_rack, report
from fakes_fleet import cluster_spec, node_spec
from fleet_story import enrol, install

from bramble.dashboard.guard import COOKIE
from fleet.admin_client import FleetReader
from fleet.lifecycle import State
from fleet.spec.power import CommandPower
from fleet.tokens import TokenRole

pytestmark = pytest.mark.integration

TIMEOUT_S = 20.0
PAGES = ("/", "/nodes", "/nodes/pi5-master-1", "/cluster", "/images", "/events", "/settings", "/audit")


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.text)
        assert found is not None
        return found[1]


@dataclass
class Browser:
    """As much of a browser as these tests need: cookies, forms, no redirects."""

    rack: Rack
    cookies: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> Answer:
        tls = ssl.create_default_context(cadata=self.rack.fleet.pki.ca_pem)
        connection = http.client.HTTPSConnection("127.0.0.1", self.rack.port, context=tls, timeout=TIMEOUT_S)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            answer = Answer(response.status, dict(response.getheaders()), response.read())
            for text in response.headers.get_all("Set-Cookie") or ():
                for name, morsel in SimpleCookie(text).items():
                    self.cookies[name] = morsel.value
            return answer
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, form: dict[str, str], **headers: str) -> Answer:
        kind = {"Content_Type": "application/x-www-form-urlencoded", "Origin": self.rack.url}
        return self.ask("POST", path, urlencode(form), **{**kind, **headers})

    def log_in(self, role: TokenRole = TokenRole.ADMIN) -> Answer:
        return self.post("/login", {"token": self.rack.token(role), "next": "/nodes"})


@pytest.fixture(scope="module")
def rack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rack]:
    with live_rack(tmp_path_factory.mktemp("rack"), attic()) as rack:
        furnish(rack)
        yield rack


@pytest.fixture
def admin(rack: Rack) -> Browser:
    browser = Browser(rack)
    assert browser.log_in().status == 303
    return browser


@pytest.mark.parametrize("path", [*PAGES, "/nodes/pi5-master-1/confirm/revoke", "/nowhere"])
def test_nobody_sees_a_page_before_logging_in(rack: Rack, path: str) -> None:
    answer = Browser(rack).get(path)
    assert answer.status == 303
    assert answer.headers["Location"].startswith("/login?next=")
    assert b"pi5-master" not in answer.body


def test_the_stream_is_refused_before_logging_in(rack: Rack) -> None:
    assert Browser(rack).get("/live").status == 401


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_below_100_kb_and_holds_nothing_inline(admin: Browser, path: str) -> None:
    answer = admin.get(path)
    assert answer.status == 200
    assert len(answer.body) < 100_000
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", answer.text)
    for script in re.findall(r"<script[^>]*>", answer.text):
        assert 'src="/static/' in script
    # Nothing of another site: every address is a path of this one, or the name space of SVG.
    assert not re.findall(r'(?:src|href|action)="(?!/|#)', answer.text)


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
    "target", ["https://evil.invalid/", "//evil.invalid", "/\\evil.invalid", "nodes", ""]
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


def test_logins_are_slowed_down(tmp_path: Path) -> None:
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


def test_settings_are_shown_without_what_logs_in(tmp_path: Path) -> None:
    spec = cluster_spec(node_spec("pi-1", 1))
    spec = replace(spec, k3s=replace(spec.k3s, source="https://me:hunter2@mirror.invalid/k3s"))
    with live_rack(tmp_path, spec) as own:
        admin = Browser(own)
        admin.log_in()
        page = admin.get("/settings").text
    assert "mirror.invalid" in page
    assert "hunter2" not in page


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


@pytest.mark.parametrize(
    "path",
    [
        "/nodes/%00",
        "/nodes/" + "x" * 5000,
        "/nodes/<script>alert(1)</script>",
        "/nodes/nobody",
        "/events?before=99999999999999999999&kind=%27&node=%25&q=%5F%25",
        "/events?q=%00%ff",
        "/nodes?page=-1&group=none&q=%22%3E%3Cscript%3E",
        "/nodes?page=99999",
        "/audit?before=x",
        "/static/../../etc/passwd",
        "/static/%2e%2e/app.css",
        "/enter/x",
        "/nodes/pi5-master-1/confirm/explode",
    ],
)
def test_odd_addresses_are_answered_and_nothing_of_them_runs(admin: Browser, path: str) -> None:
    answer = admin.get(path)
    assert answer.status in (200, 400, 404, 410, 414)
    assert "<script>" not in answer.text


def test_what_a_board_says_is_text_in_a_page(tmp_path: Path) -> None:
    with live_rack(tmp_path, cluster_spec(node_spec("pi-1", 1))) as own:
        attack = '<img src=x onerror="alert(1)">'

        def act() -> None:
            install(own.fleet, own.node("pi-1"))
            certificate = enrol(own.fleet, own.node("pi-1"))
            told = report(own.node("pi-1"), 1)
            hardware = told.hardware.__class__(**{**vars(told.hardware), "model": attack})
            own.fleet.controller.joins.status(
                certificate, told.__class__(**{**vars(told), "hardware": hardware})
            )

        own.do(act)
        admin = Browser(own)
        admin.log_in()
        page = admin.get("/nodes/pi-1").text
        assert "<img" not in page
        assert "&lt;img" in page


def test_no_page_holds_a_secret(admin: Browser) -> None:
    fleet = admin.rack.fleet
    with fleet.store.read() as reader:
        secrets = [node.node_password.reveal() for node in reader.nodes()]
        secrets += [token.sha256 for token in reader.all_tokens()]
    secrets += [ticket.reveal() for tickets in fleet.images.tickets.values() for ticket in tickets]
    pages = "".join(admin.get(path).text for path in (*PAGES, "/nodes/pi5-worker-2", "/nodes/pi4-worker-3"))
    assert len(secrets) > 8
    assert not [secret for secret in secrets if secret in pages]


def test_files_are_packed_and_kept_for_ever(admin: Browser) -> None:
    (address,) = re.findall(r'href="(/static/[0-9a-f]{12}/app\.css)"', admin.get("/").text)
    answer = Browser(admin.rack).get(address, Accept_Encoding="gzip")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert "immutable" in answer.headers["Cache-Control"]
    assert len(answer.body) < 10_000


@dataclass
class Stream:
    """A reader of server-sent events in a thread."""

    browser: Browser
    path: str
    last_id: str = ""
    found: list[tuple[str, str, str]] = field(default_factory=list)

    def __enter__(self) -> Stream:
        tls = ssl.create_default_context(cadata=self.browser.rack.fleet.pki.ca_pem)
        self._connection = http.client.HTTPSConnection(
            "127.0.0.1", self.browser.rack.port, context=tls, timeout=TIMEOUT_S
        )
        cookies = "; ".join(f"{name}={value}" for name, value in self.browser.cookies.items())
        headers = {"Cookie": cookies, **({"Last-Event-ID": self.last_id} if self.last_id else {})}
        self._connection.request("GET", self.path, headers=headers)
        self._response = self._connection.getresponse()
        assert self._response.status == 200
        assert self._response.headers["Content-Type"] == "text/event-stream"
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        sock = self._connection.sock
        if sock is not None:
            sock.shutdown(2)
        self._thread.join(TIMEOUT_S)
        self._response.close()
        self._connection.close()

    def _read(self) -> None:
        now: dict[str, str] = {}
        try:
            while line := self._response.readline():
                text = line.decode().rstrip("\n")
                if text:
                    key, _, value = text.partition(": ")
                    now[key] = value
                elif "data" in now:
                    self.found.append((now.get("event", ""), now["data"], now.get("id", "")))
                    now = {}
        except (OSError, ValueError):
            pass

    def wait_for(self, event: str, having: str = "", count: int = 1) -> tuple[str, str, str]:
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            fitting = [one for one in self.found if one[0] == event and having in one[1]]
            if len(fitting) >= count:
                return fitting[-1]
            threading.Event().wait(0.02)
        raise TimeoutError(f"no {event} with {having!r}; there were {self.found}")


def test_the_stream_tells_what_changed_and_nothing_else(rack: Rack, admin: Browser) -> None:
    tokens = furnish_more(rack, "pi4-worker-5")
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


def is_revoked(rack: Rack, name: str) -> bool:
    with rack.fleet.store.read() as reader:
        return reader.is_refused(name)


def furnish_more(rack: Rack, name: str) -> str:
    """Begin an installation; the installer's token."""
    return rack.do(lambda: rack.begin(rack.node(name)))


def touch(rack: Rack, name: str, detail: str) -> None:
    """Change what a card says."""
    with rack.fleet.store.write() as tx:
        node = tx.require_node(name)
        assert node.state in State
        tx.update_node(node, detail=detail)
