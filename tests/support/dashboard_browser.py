"""Chromium for tests of the dashboard, and pages that tell when something is wrong with them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from dashboard_rack import Rack
from playwright.sync_api import Browser, Page, expect, sync_playwright

from fleet.trust.tokens import TokenRole

WAIT_MS = 60_000
Theme = Literal["light", "dark"]
PASSED_BY = ("net::ERR_INTERNET_DISCONNECTED", "net::ERR_NETWORK_CHANGED", "net::ERR_INCOMPLETE_CHUNKED")
"""What Chromium says of a network that a test cut."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser of the system; playwright's own is never downloaded."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("chromium is not installed (package chromium)")
    with sync_playwright() as playwright:
        expect.set_options(timeout=WAIT_MS)
        # In a container there is no user namespace for its sandbox, and it opens our own pages only.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page of one visitor; whatever its browser complains of is kept."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))

    def _note(self, kind: str, text: str) -> None:
        is_refusal = "Content Security Policy" in text
        if (kind in ("error", "warning") or is_refusal) and not any(word in text for word in PASSED_BY):
            self.complaints.append(f"{kind}: {text}")

    def go(self, path: str) -> None:
        answer = self.page.goto(self.url + path)
        assert answer is not None
        assert answer.status == 200, f"{path}: {answer.status}"

    def require_content(self) -> None:
        """Nothing was complained of."""
        assert self.complaints == []


@contextmanager
def visitor(browser: Browser, url: str, **context: Any) -> Iterator[Watched]:
    """Somebody with a browser profile of their own; complaints fail the test at the end."""
    profile = browser.new_context(ignore_https_errors=True, **context)
    try:
        watched = Watched(profile.new_page(), url)
        yield watched
        watched.require_content()
    finally:
        profile.close()


def come_in(person: Watched, rack: Rack, role: TokenRole = TokenRole.ADMIN) -> None:
    """Log in by a link, and wait until the page is live."""
    person.page.goto(rack.link(role))
    person.page.get_by_role("button", name="Open the dashboard").click()
    expect(person.page.locator("#pulse")).to_have_text("live", timeout=WAIT_MS)


@contextmanager
def at_a_desk(browser: Browser, rack: Rack) -> Iterator[Watched]:
    """An admin who has logged in, at a desk's screen."""
    with visitor(browser, rack.url, viewport={"width": 1360, "height": 900}) as admin:
        come_in(admin, rack)
        yield admin


def violations(page: Page) -> list[str]:
    """What axe finds against WCAG 2.2 A and AA, and against its own best practices."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{one['id']} ({one['impact']}): {node['html'][:200]} {node['failureSummary'][:300]}"
        for one in found
        for node in one["nodes"]
    ]


def sideways(page: Page) -> int:
    """How many pixels the page is wider than the window."""
    width: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return width


_FINGERPRINTS_IN_PIECES = """() => {
  const pieces = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode;
    for (const match of text.data.matchAll(/[0-9a-f]{4}(-[0-9a-f]{4}){4}/g)) {
      const range = document.createRange();
      range.setStart(text, match.index);
      range.setEnd(text, match.index + match[0].length);
      const lines = new Set([...range.getClientRects()].map((line) => line.top));
      if (lines.size > 1) pieces.push(match[0]);
    }
  }
  return pieces;
}"""


def in_pieces(page: Page) -> list[str]:
    """Fingerprints that go over more than one line: nobody can compare them so."""
    found: list[str] = page.evaluate(_FINGERPRINTS_IN_PIECES)
    return found
