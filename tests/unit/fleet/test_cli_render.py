"""Tables and timelines as text."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from fleet.cli.render import MENDS, age, out, render_fleet, render_timeline

NODE = {
    "name": "pi5-1",
    "board": "pi5",
    "role": "server",
    "state": "imaging",
    "since": 940.0,
    "detail": "write 42 %",
    "k3s": "v1.33.5+k3s1 (simulator)",
}
HELD = {
    "board": "abcd0063",
    "model": "Raspberry Pi 4 Model B",
    "macs": ["2c:cf:67:00:00:0a"],
    "last_seen": 995.0,
    "reason": "not in cluster.yaml",
}


def event(at: float, kind: str, text: str, hint: str = "") -> dict[str, Any]:
    return {"id": int(at), "at": at, "kind": kind, "text": text, "hint": hint}


def printed(renderable: RenderableType) -> str:
    stream = io.StringIO()
    Console(file=stream, width=140, color_system=None).print(renderable)
    return stream.getvalue()


def test_table_shows_every_column_and_the_held_boards() -> None:
    text = printed(render_fleet({"nodes": [NODE], "held": [HELD], "live": True}, 1000.0))
    for part in ("pi5-1", "server", "imaging", "60 s", "write 42 %", "v1.33.5+k3s1 (simulator)"):
        assert part in text
    for part in ("abcd0063", "2c:cf:67:00:00:0a", "5 s ago", "not in cluster.yaml"):
        assert part in text
    assert "No server is running" not in text


def test_where_nobody_reads_a_screen_a_node_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    detail = "waits: " + "somebody has to do something about it, " * 5
    out().print(render_fleet({"nodes": [{**NODE, "detail": detail}], "held": [], "live": True}, 1000.0))
    assert detail.strip() in capsys.readouterr().out


def test_that_a_node_is_revoked_comes_before_what_it_does() -> None:
    view = {"nodes": [{**NODE, "revoked": True}], "held": [], "live": True}
    assert "revoked; write 42 %" in printed(render_fleet(view, 1000.0))
    ready = {**NODE, "detail": "", "revoked": True}
    shown = printed(render_timeline({"node": ready, "board": None, "facts": {}, "events": []}, 1000.0))
    assert shown.splitlines()[0] == "pi5-1  imaging for 60 s  revoked"


def test_what_to_mend_stands_below_the_table() -> None:
    failed = {**NODE, "state": "failed-imaging", "complaint": "no NVMe disk", "mend": "Reseat [it]."}
    text = printed(render_fleet({"nodes": [failed], "held": [], "live": True}, 1000.0))
    assert "pi5-1: no NVMe disk" in text
    assert "Reseat [it]." in text
    many = [{**failed, "name": f"n-{number}"} for number in range(MENDS + 2)]
    text = printed(render_fleet({"nodes": many, "held": [], "live": True}, 1000.0))
    assert text.count("Reseat [it].") == MENDS
    assert "and 2 more: 'bramble show NODE'" in text


def test_table_says_when_nobody_serves_and_who_waits() -> None:
    pending = {**NODE, "state": "pending"}
    text = printed(render_fleet({"nodes": [pending], "held": [], "live": False}, 1000.0))
    assert "bramble approve pi5-1" in text
    assert "No server is running" in text


def test_text_from_the_network_is_not_markup() -> None:
    hostile = {**NODE, "detail": "[bold red]x[/]"}
    text = printed(
        render_fleet({"nodes": [hostile], "held": [{**HELD, "model": "[blink]y"}], "live": True}, 0.0)
    )
    assert "[bold red]x[/]" in text
    assert "[blink]y" in text


def test_timeline_counts_from_the_first_sign_of_life() -> None:
    events = [
        event(10.0, "state", "declared in cluster.yaml"),
        event(100.0, "boot", "DISCOVER"),
        event(112.5, "install", "installation failed", "Put a disk in."),
    ]
    timeline = {"node": NODE, "board": None, "facts": {"role": "server"}, "events": events}
    text = printed(render_timeline(timeline, 1000.0))
    assert "+0.0 s  boot      DISCOVER" in text
    assert "+12.5 s  install   installation failed" in text
    assert "Put a disk in." in text
    assert "-90.0 s" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_age(seconds: float, text: str) -> None:
    assert age(seconds) == text
