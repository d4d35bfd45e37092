"""A recording of `make demo` for the documents: `python tests/support/demo_recording.py FILE.svg`.

Runs the real demo (minutes; it needs QEMU) and keeps what its screen showed. The result is one SVG without
scripts and outside assets, so that it plays inside a page: the frames lie on top of each other and a CSS
animation shows one at a time. Whoever wants no motion sees the last one.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console, RenderableType
from rich.terminal_theme import SVG_EXPORT_THEME

from bramble.demo import DemoOptions, run_demo
from bramble.demo_screen import Rows, TableScreen, summary_table

COLUMNS: Final = 96
ROWS: Final = 20
CELL_WIDTH, LINE_HEIGHT = 12.2, 24.4
"""Of a character, as rich's export lays it out."""
STEP_S: Final = 6.0
"""Of the demo between two frames."""
FRAME_S: Final = 0.4
LAST_FRAME_S: Final = 8.0
MAX_BYTES: Final = 900_000


@dataclass(frozen=True, slots=True)
class Frame:
    """What the screen showed, and when: seconds since the boards were switched on."""

    at: float
    shown: RenderableType


class RecordedScreen(TableScreen):
    """The demo's table on a terminal that nobody sees."""

    def __init__(self) -> None:
        super().__init__(
            Console(file=io.StringIO(), force_terminal=True, width=COLUMNS, height=ROWS, highlight=False)
        )
        self.frames: list[Frame] = []

    def show(self, rows: Rows) -> None:
        super().show(rows)
        if not self.frames or self.seconds() - self.frames[-1].at >= STEP_S:
            self.frames.append(Frame(self.seconds(), self.render()))

    def summarise(self, rows: Sequence[tuple[str, str, str]]) -> None:
        self.frames.append(Frame(self.seconds(), summary_table(rows)))


def draw(frames: Sequence[Frame]) -> str:
    """The SVG."""
    whole = FRAME_S * (len(frames) - 1) + LAST_FRAME_S
    width, height = COLUMNS * CELL_WIDTH + 24, ROWS * LINE_HEIGHT + 60
    styles, groups = [], []
    for number, frame in enumerate(frames):
        style, text = _cells(frame.shown, f"f{number}")
        begins = FRAME_S * number / whole
        ends = 1.0 if number == len(frames) - 1 else FRAME_S * (number + 1) / whole
        styles.append(f"{style}\n#f{number} {{ animation: s{number} {whole:g}s step-end infinite }}")
        styles.append(
            f"@keyframes s{number} {{ 0% {{ visibility: hidden }} "
            f"{begins:.3%} {{ visibility: visible }} {ends:.3%} {{ visibility: hidden }} }}"
        )
        label = f'<text x="{width - 20:g}" y="30" text-anchor="end" class="clock">{frame.at:.0f} s</text>'
        groups.append(f'<g id="f{number}">{label}<g transform="translate(12, 44)">{text}</g></g>')
    theme = SVG_EXPORT_THEME
    return f"""<svg viewBox="0 0 {width:g} {height:g}" xmlns="http://www.w3.org/2000/svg" role="img">
<title>make demo: three virtual boards from blank disks to a Ready cluster, \
{STEP_S / FRAME_S:.0f} times as fast as it was</title>
<style>
text {{ font: 20px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; white-space: pre }}
.clock, .name {{ fill: {theme.foreground_color.hex} }}
g[id] {{ visibility: hidden }}
{chr(10).join(styles)}
@media (prefers-reduced-motion: reduce) {{
  g[id] {{ animation: none !important }}
  #f{len(frames) - 1} {{ visibility: visible }}
}}
</style>
<rect width="{width:g}" height="{height:g}" rx="8" fill="{theme.background_color.hex}"/>
<text x="20" y="30" class="name">$ make demo</text>
{chr(10).join(groups)}
</svg>
"""


def _cells(shown: RenderableType, name: str) -> tuple[str, str]:
    """What a terminal would show: CSS rules of its colours, and text elements at their places."""
    console = Console(file=io.StringIO(), record=True, width=COLUMNS, force_terminal=True, highlight=False)
    console.print(shown)
    exported = console.export_svg(unique_id=name, code_format="{styles}\0{matrix}")
    styles, _, text = exported.partition("\0")
    return styles, re.sub(r' clip-path="[^"]*"', "", text)


def main(target: Path) -> None:
    """Run the demo and write its recording."""
    screen = RecordedScreen()
    run_demo(DemoOptions(), screen)
    drawing = draw(screen.frames)
    size = len(drawing.encode())
    assert size < MAX_BYTES, f"{size} bytes, at most {MAX_BYTES} are wanted"
    target.write_text(drawing, "utf-8")
    print(f"{target} {size // 1000} KB, {len(screen.frames)} frames")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
