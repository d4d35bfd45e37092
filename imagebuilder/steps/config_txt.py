"""config.txt: what Kubernetes and the boards need of the firmware, in one marked block at the end.

*4 KiB pages on the Pi 5.* Raspberry Pi OS starts a kernel with 16 KiB pages there. Programs that were built
for 4 KiB end at once in containers (jemalloc: "Unsupported system page size"; Fluent Bit and many Rust images
among them), so nodes get the stock kernel with 4 KiB pages, which runs on both families. With
``image.pages: stock`` the stock choice stays.

*Device trees.* Debian's kernel of 2025 has a device tree for the Raspberry Pi 5, and none for its siblings;
the bootloader of a CM5 or a Pi 500 then stops at its os_check. The tree of the same chip's main board names
the same controllers and stands in for the missing one.

Both are conditional sections. The block stands at the end because of two settings the firmware takes the
later one, and it ends in ``[all]``, so that what is appended later holds on every board.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fleet.boards import BoardModel, Soc
from fleet.spec.model import KernelPages
from imagebuilder.disk.edits import Edit, PutBootFile
from imagebuilder.errors import NotUnderstood
from imagebuilder.inspect.config_txt import MAX_LINE_CHARS
from imagebuilder.inspect.facts import BoardFacts, ImageFacts
from imagebuilder.steps.step import Context, Json

PATH: Final = "/config.txt"
PAGE_BYTES: Final = 4096
STAND_IN: Final = {Soc.BCM2711: BoardModel.PI4, Soc.BCM2712: BoardModel.PI5}

FILTERS: Final = {
    BoardModel.PI400: "pi400",
    BoardModel.CM4: "cm4",
    BoardModel.PI500: "pi500",
    BoardModel.CM5: "cm5",
    BoardModel.CM5_LITE: "cm5",
}
"""The conditional filter that holds on a board and not on the main board of its chip.
Source: Raspberry Pi documentation, "Conditional filters in config.txt" (read 2026-11)."""

BEGIN: Final = "# Bramble: begin"
END: Final = "# Bramble: end"
_BLOCK: Final = re.compile(rf"\n*{BEGIN}[^\n]*\n.*?{END}[^\n]*\n?", re.S)


@dataclass(frozen=True, slots=True)
class ConfigTxtStep:
    """Adds Bramble's block to config.txt, where there is anything to say."""

    pages: KernelPages = KernelPages.FOUR_K
    name: str = "firmware settings"

    def identity(self) -> Mapping[str, Json]:
        stand_ins = {soc.name: model.value for soc, model in STAND_IN.items()}
        filters = sorted(FILTERS.values())
        return {"config.txt": {"pages": self.pages.value, "stand-ins": stand_ins, "filters": filters}}

    def edits(self, context: Context) -> Sequence[Edit]:
        found = context.disk.read_boot(PATH)
        if found is None:
            raise NotUnderstood(
                "the base's boot partition holds no config.txt",
                "Use a Raspberry Pi image: without config.txt a Raspberry Pi 5 does not boot.",
            )
        sections = dict(stand_in_sections(context.facts))
        if self.pages is KernelPages.FOUR_K and (small := small_page_section(context.facts)):
            sections = {"pi5": small, **sections}
        edited = edit_config(found.decode("utf-8", "surrogateescape"), sections)
        return [PutBootFile(path=PATH, content=edited.encode("utf-8", "surrogateescape"))]


def edit_config(text: str, sections: Mapping[str, Sequence[str]]) -> str:
    """config.txt with one block of ours, in place of an earlier one; nothing to say leaves it as it is.

    Args:
        text: config.txt as it is; its line ends are kept.
        sections: filter → lines below it.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    plain = _BLOCK.sub("\n", text.replace("\r\n", "\n"))
    if not sections:
        return plain.replace("\n", newline)
    # Filters of different kinds add up: an open [none] or [tryboot] above would hold for our sections too.
    lines = [BEGIN, "[all]"]
    for selector, settings in sections.items():
        lines += [f"[{selector}]", *settings]
    lines += ["[all]", END]
    assert all(len(line) <= MAX_LINE_CHARS for line in lines), "the firmware would cut a line"
    return (plain.rstrip("\n") + "\n\n" + "\n".join(lines) + "\n").replace("\n", newline)


def stand_in_sections(facts: ImageFacts) -> Mapping[str, Sequence[str]]:
    """Sections for boards whose device tree is missing while their chip's main board has one."""
    sections: dict[str, Sequence[str]] = {}
    for model, selector in FILTERS.items():
        stand_in = facts.board(STAND_IN[model.soc])
        if stand_in.device_tree is not None and facts.board(model).device_tree is None:
            name = stand_in.device_tree.removeprefix(stand_in.os_prefix)
            sections[selector] = (
                "# This kernel has no device tree of its own for these boards.",
                "os_check=0",
                f"device_tree={name}",
            )
    return sections


def small_page_section(facts: ImageFacts) -> Sequence[str]:
    """The lines that give a Pi 5 the Pi 4's kernel, where its own has larger pages; else none.

    Raises:
        NotUnderstood: its own has, and no kernel with 4 KiB pages is there.
    """
    five, four = facts.board(BoardModel.PI5), facts.board(BoardModel.PI4)
    if five.page_bytes is None or five.page_bytes == PAGE_BYTES:
        return ()
    if four.kernel is None or four.page_bytes != PAGE_BYTES or four.os_prefix != five.os_prefix:
        raise NotUnderstood(
            f"the kernel of a Raspberry Pi 5, {five.kernel}, has pages of {five.page_bytes} bytes, and the "
            f"image holds none with {PAGE_BYTES}, which many container images need",
            "Set image.pages: stock in cluster.yaml if your containers are built for larger pages.",
        )
    lines = [
        "# 4 KiB pages: many container images do not start with 16 KiB.",
        f"kernel={_name(four, four.kernel)}",
    ]
    if four.initramfs is not None:
        lines.append(f"initramfs {_name(four, four.initramfs)} followkernel")
    return lines


def _name(board: BoardFacts, path: str) -> str:
    return path.removeprefix(board.os_prefix)
