"""The dashboard with 500 boards that all change every second: its cost, its pages, and a browser's part."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import ssl
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError
from benchmarks.measure import Better, Row, Table
from benchmarks.processes import LOOPBACK, Words, server
from benchmarks.usage import cpu_seconds

NODES: Final = 500
TRIAL_NODES: Final = 50
WINDOW_S: Final = 15.0
TRIAL_WINDOW_S: Final = 4.0
SETTLE_S: Final = 3.0
PAGES: Final = (
    "/",
    "/nodes",
    "/nodes/node-00001",
    "/nodes/node-00001/log",
    "/cluster",
    "/upkeep",
    "/upkeep/rollout",
    "/images",
    "/events",
    "/settings",
    "/audit",
)
ASKED: Final = 20
LIMIT_BYTES: Final = 100_000


@dataclass
class Visitor:
    """One browser's worth of HTTP: a connection that stays, and its cookies."""

    port: int
    cookies: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The certificate is the server's own and made a moment ago; what is measured is on this machine.
        tls = ssl._create_unverified_context()
        self._connection = http.client.HTTPSConnection(LOOPBACK, self.port, context=tls, timeout=30)

    def ask(self, method: str, path: str) -> tuple[int, bytes]:
        headers = {"Cookie": "; ".join(f"{key}={value}" for key, value in self.cookies.items())}
        if method == "POST":
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        self._connection.request(method, path, "" if method == "POST" else None, headers)
        answer = self._connection.getresponse()
        body = answer.read()
        for text in answer.headers.get_all("Set-Cookie") or ():
            self.cookies |= {name: morsel.value for name, morsel in SimpleCookie(text).items()}
        return answer.status, body

    def enter(self, link: str) -> None:
        """Log in by a link.

        Raises:
            BenchmarkError: It opens nothing.
        """
        status, _ = self.ask("POST", urlsplit(link).path)
        if status != 303:
            raise BenchmarkError(f"the dashboard answered a login with {status}")

    def close(self) -> None:
        self._connection.close()


def run(bench: Bench) -> list[Table]:
    """One server through all windows: alone, then with a browser."""
    count = TRIAL_NODES if bench.trial else NODES
    window_s = TRIAL_WINDOW_S if bench.trial else WINDOW_S
    with bench.directory("dashboard") as work:
        log = work / "server.log"
        argv: Words = [sys.executable, "-m", "benchmarks.dashboard_server", work / "state", str(count)]
        with server(argv, log=log, answers=lambda: b'"links"' in log.read_bytes()) as pid:
            told = json.loads(next(line for line in log.read_text().splitlines() if '"links"' in line))
            links: list[str] = told["links"]
            with contextlib.closing(Visitor(told["port"])) as visitor:
                visitor.enter(links[0])
                pages = [_page(visitor, path) for path in PAGES]
            alone = [_used(pid, window_s) for _ in range(bench.rounds)]
            with _browser(links[1], count) as page:
                meter = page.context.new_cdp_session(page)
                meter.send("Performance.enable")
                shown, busy = [], []
                for _ in range(bench.rounds):
                    before, began = _busy_s(meter), time.monotonic()
                    shown.append(_used(pid, window_s))
                    busy.append(1000 * (_busy_s(meter) - before) / (time.monotonic() - began))
                _require_live(page)
    every = f"{count} nodes are being installed, and each one's percentage changes every second"
    return [
        Table(
            title="The dashboard's server",
            unit="% of a core",
            better=Better.LOWER,
            work=f"{every}; windows of {window_s:.0f} s, TLS. The limit is 30 %.",
            rows=(
                Row(name="bramble", samples=tuple(shown), note="a browser shows all of them, live"),
                Row(
                    name="the same without a browser",
                    samples=tuple(alone),
                    note="what it costs to write the changes down",
                ),
            ),
        ),
        Table(
            title="The dashboard in the browser",
            unit="ms a second",
            better=Better.LOWER,
            work="The same windows: how long the page's main thread is busy (script, style, layout), in "
            "Chromium without a graphics card on the same machine. A frame is late after 16 ms in one piece.",
            rows=(Row(name="bramble", samples=tuple(busy), note=f"{count} cards change at once"),),
        ),
        Table(
            title="Pages of the dashboard",
            unit="ms",
            better=Better.LOWER,
            work=f"Meanwhile, each page asked {ASKED} times on one connection. Limits: 100 ms and 100 KB.",
            rows=tuple(pages),
        ),
    ]


def _page(visitor: Visitor, path: str) -> Row:
    samples, size = [], 0
    for _ in range(ASKED):
        began = time.perf_counter()
        status, body = visitor.ask("GET", path)
        samples.append((time.perf_counter() - began) * 1000)
        size = len(body)
        if status != 200 or size > LIMIT_BYTES:
            raise BenchmarkError(f"{path}: status {status}, {size} bytes, at most {LIMIT_BYTES} are wanted")
    worst = max(samples)
    note = f"{size / 1000:.0f} KB; median {statistics.median(samples):.0f}, worst {worst:.0f} ms"
    return Row(name=f"bramble {path}", samples=tuple(samples), note=note)


def _used(pid: int, window_s: float) -> float:
    before, began = cpu_seconds(pid), time.monotonic()
    time.sleep(window_s)
    return 100 * (cpu_seconds(pid) - before) / (time.monotonic() - began)


@contextlib.contextmanager
def _browser(link: str, count: int) -> Iterator[Any]:
    """Chromium with the rack open; the driver is one of the development dependencies.

    Raises:
        BenchmarkError: It is not installed, or does not show what it should.
    """
    program = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as exc:
        raise BenchmarkError("playwright is not installed", "Run 'make setup'.") from exc
    if program is None:
        raise BenchmarkError("chromium is not installed", "Install the package chromium.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=Path(program), args=["--no-sandbox"])
        try:
            context = browser.new_context(ignore_https_errors=True, viewport={"width": 1920, "height": 1080})
            page = context.new_page()
            page.goto(link)
            page.get_by_role("button", name="Open the dashboard").click()
            page.locator("#pulse[data-state=live]").wait_for()
            if page.locator(".card progress").count() != count:
                raise BenchmarkError(f"the page has no {count} cards with a percentage")
            time.sleep(SETTLE_S)
            yield page
        finally:
            browser.close()


def _busy_s(meter: Any) -> float:
    """Seconds that the main thread has worked. Source: Chrome DevTools protocol, Performance.getMetrics."""
    metrics = {one["name"]: one["value"] for one in meter.send("Performance.getMetrics")["metrics"]}
    return float(metrics["TaskDuration"])


def _require_live(page: Any) -> None:
    """The cards have moved: a server that sends nothing is cheap."""
    before = page.locator(".card .d").all_text_contents()
    time.sleep(2.5)
    after = page.locator(".card .d").all_text_contents()
    moved = sum(one != other for one, other in zip(before, after, strict=True))
    if moved < len(before) or not all(re.fullmatch(r"write \d+ %", text) for text in after):
        raise BenchmarkError(f"only {moved} of {len(before)} cards moved in 2.5 s")
