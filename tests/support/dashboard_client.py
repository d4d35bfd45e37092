"""As much of a browser as tests of the dashboard's pages need: cookies, forms, streams, no redirects."""

from __future__ import annotations

import http.client
import re
import ssl
import threading
import time
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from urllib.parse import urlencode

from dashboard_rack import Rack

from fleet.lifecycle import State
from fleet.trust.tokens import TokenRole

TIMEOUT_S = 60.0
PAGES = (
    "/",
    "/nodes",
    "/nodes/pi5-master-1",
    "/nodes/pi5-master-1/log",
    "/cluster",
    "/cluster/recover",
    "/upkeep",
    "/upkeep/rollout",
    "/images",
    "/events",
    "/settings",
    "/audit",
)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The page, without the marks that keep names in one piece on a phone."""
        return re.sub('<span class="whole">([^<]*)</span>', r"\1", self.body.decode())

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

    def ask(self, method: str, path: str, body: str | bytes | None = None, **headers: str) -> Answer:
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


def admin_of(rack: Rack) -> Browser:
    """Somebody who logged in as an admin."""
    browser = Browser(rack)
    assert browser.log_in().status == 303
    return browser


def is_revoked(rack: Rack, name: str) -> bool:
    with rack.fleet.store.read() as reader:
        return reader.is_refused(name)


def touch(rack: Rack, name: str, detail: str) -> None:
    """Change what a card says."""
    with rack.fleet.store.write() as tx:
        node = tx.require_node(name)
        assert node.state in State
        tx.update_node(node, detail=detail)
