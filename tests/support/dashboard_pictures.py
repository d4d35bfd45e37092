"""Pictures of the dashboard for the documents: `python tests/support/dashboard_pictures.py DIRECTORY`.

Boards are simulated by the protocol's own calls, so the pictures show what the pages make of real records.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from dashboard_browser import Watched, chromium, visitor
from dashboard_rack import attic, furnish, live_rack
from playwright.sync_api import expect

MAX_BYTES: Final = 200_000
DESK: Final = {"viewport": {"width": 1360, "height": 850}}
PHONE: Final = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True}
PICTURES: Final[tuple[tuple[str, str, dict[str, Any]], ...]] = (
    ("rack-light", "/", {**DESK, "color_scheme": "light"}),
    ("rack-dark", "/", {**DESK, "color_scheme": "dark"}),
    ("node-light", "/nodes/pi5-master-1", {**DESK, "color_scheme": "light"}),
    ("trouble-dark", "/nodes/pi4-worker-3", {**DESK, "color_scheme": "dark"}),
    ("phone-light", "/", {**PHONE, "color_scheme": "light"}),
    ("phone-approve-dark", "/nodes/pi5-master-3", {**PHONE, "color_scheme": "dark"}),
    ("cluster-light", "/cluster", {**DESK, "color_scheme": "light"}),
)


def take(directory: Path) -> None:
    """Write all pictures."""
    directory.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as state,
        live_rack(Path(state), attic()) as rack,
        chromium() as browser,
    ):
        furnish(rack)
        for name, path, look in PICTURES:
            if path == "/cluster":
                rack.do(lambda: rack.make_ready(rack.node("pi5-master-3")))
            with visitor(browser, rack.url, reduced_motion="reduce", **look) as person:
                person.page.goto(rack.link())
                person.page.get_by_role("button", name="Open the dashboard").click()
                shoot(person, path, directory / f"dashboard-{name}.png")


def shoot(person: Watched, path: str, target: Path) -> None:
    """One picture, of what a window of that size shows."""
    person.go(path)
    if person.page.locator("body[data-live]").count():
        expect(person.page.locator("#pulse")).to_have_text("live")
    if path == "/cluster":
        expect(person.page.locator("#etcd-part table")).to_be_visible()
    person.page.screenshot(path=target)
    size = target.stat().st_size
    assert size < MAX_BYTES, f"{target}: {size} bytes, at most {MAX_BYTES} are wanted"
    print(f"{target} {size // 1000} KB")


if __name__ == "__main__":
    take(Path(sys.argv[1]))
