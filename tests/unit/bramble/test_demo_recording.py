"""A recording of the demo is one file that plays by itself."""

from __future__ import annotations

from xml.etree import ElementTree

from demo_recording import Frame, RecordedScreen, draw

SVG = "{http://www.w3.org/2000/svg}"


def row(state: str) -> dict[str, dict[str, str]]:
    return {"pi5": {"board": "pi5", "role": "server", "state": state, "detail": "", "k3s": "<none>"}}


def test_a_frame_is_kept_every_few_seconds_and_the_summary_at_the_end() -> None:
    screen = RecordedScreen()
    for _ in range(3):
        screen.show(row("imaging"))
    screen.summarise([("whole demo", "319 s", "480 s")])
    assert len(screen.frames) == 2


def test_it_is_a_drawing_of_its_own_with_all_frames_and_nothing_from_elsewhere() -> None:
    screen = RecordedScreen()
    screen.show(row("ready"))
    first = screen.frames[0]
    drawing = draw([first, Frame(first.at + 6, first.shown), Frame(first.at + 9, first.shown)])
    tree = ElementTree.fromstring(drawing)
    groups = [group.get("id") for group in tree.iter(f"{SVG}g") if group.get("id")]
    assert groups == ["f0", "f1", "f2"]
    words = " ".join(text.text or "" for text in tree.iter(f"{SVG}text"))
    assert "<none>" in words.replace("\N{NO-BREAK SPACE}", " ")
    assert drawing.count("http") == 1, "its own namespace"
    assert all(f"@keyframes s{number} " in drawing for number in range(3))
