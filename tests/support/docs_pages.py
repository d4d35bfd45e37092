"""The documents as their readers see them: headings, links, fenced blocks and words in backticks, with lines.

A reader of the small part of Markdown that the pages use. Reads files, checks nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_FENCE: Final = re.compile(r"^(?P<indent> *)(?P<marks>`{3,})(?P<info>[^`]*)$")
_HEADING: Final = re.compile(r"^#{1,6} +(?P<text>.+?) *#*$")
_LINK: Final = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<target>[^()\s]+)\)")
_ATTRIBUTE: Final = re.compile(r"\b(?:src|srcset|href)=\"(?P<target>[^\"]+)\"")
_CODE: Final = re.compile(r"(?<!`)`(?P<code>[^`]+)`(?!`)")
_NO_SLUG: Final = re.compile(r"[^\w\- ]")


@dataclass(frozen=True, slots=True)
class Complaint:
    """What a reader would stumble over: `docs/x.md:12: …`."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: the words behind the fence, its text, and the number of its first line of text."""

    info: str
    text: str
    line: int

    @property
    def language(self) -> str:
        return self.info.split()[0] if self.info.split() else ""

    @property
    def notes(self) -> frozenset[str]:
        """What stands behind the language: says what is shown to those who check it, not to readers."""
        return frozenset(self.info.split()[1:])


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a line: a link's target, words in backticks, or a heading."""

    text: str
    line: int


@dataclass(frozen=True)
class Page:
    """One document. `name` is its path in the checkout."""

    name: str
    text: str

    @classmethod
    def load(cls, path: Path) -> Page:
        return cls(path.relative_to(ROOT).as_posix(), path.read_text("utf-8"))

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        return tuple(part for part in self._parts if isinstance(part, Block))

    @cached_property
    def prose(self) -> tuple[Span, ...]:
        """The lines outside of fenced blocks."""
        return tuple(part for part in self._parts if isinstance(part, Span))

    @cached_property
    def headings(self) -> tuple[Span, ...]:
        found = ((_HEADING.match(span.text), span.line) for span in self.prose)
        return tuple(Span(match["text"], line) for match, line in found if match)

    @cached_property
    def anchors(self) -> frozenset[str]:
        """Where a link into this page can lead, as GitHub and GitLab name headings."""
        seen: dict[str, int] = {}
        anchors = []
        for heading in self.headings:
            slug = _slug(heading.text)
            seen[slug] = seen.get(slug, -1) + 1
            anchors.append(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        return frozenset(anchors)

    @cached_property
    def links(self) -> tuple[Span, ...]:
        """Targets of links and pictures, of HTML tags too."""
        return tuple(
            Span(match["target"], span.line)
            for span in self.prose
            for pattern, text in ((_LINK, _CODE.sub("``", span.text)), (_ATTRIBUTE, span.text))
            for match in pattern.finditer(text)
        )

    @cached_property
    def words(self) -> tuple[Span, ...]:
        """What stands in backticks, also where a line ends within."""
        found = []
        for paragraph in _paragraphs(self.prose):
            text = "\n".join(span.text for span in paragraph)
            for match in _CODE.finditer(text):
                line = paragraph[0].line + text.count("\n", 0, match.start())
                found.append(Span(" ".join(match["code"].split()), line))
        return tuple(found)

    @cached_property
    def _parts(self) -> tuple[Block | Span, ...]:
        return tuple(_parse(self.text.splitlines()))


def pages() -> tuple[Page, ...]:
    """Every document of the checkout that people read, the README first."""
    found = sorted((ROOT / "docs").rglob("*.md"))
    return tuple(map(Page.load, (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *found)))


def _parse(lines: list[str]) -> Iterator[Block | Span]:
    fence: re.Match[str] | None = None
    first, inside = 0, list[str]()
    for number, line in enumerate(lines, start=1):
        match = _FENCE.match(line)
        if fence is None and match is None:
            yield Span(line, number)
        elif fence is None:
            fence, first, inside = match, number + 1, []
        elif match and match["marks"] == fence["marks"] and not match["info"].strip():
            yield Block(fence["info"].strip(), "\n".join(inside), first)
            fence = None
        else:
            inside.append(line.removeprefix(fence["indent"]))
    if fence is not None:
        raise ValueError(f"the fenced block before line {first} has no end")


def _paragraphs(spans: Iterable[Span]) -> Iterator[list[Span]]:
    """Runs of lines without an empty line or a block between them."""
    run: list[Span] = []
    for span in spans:
        if run and (not span.text.strip() or span.line != run[-1].line + 1):
            yield run
            run = []
        if span.text.strip():
            run.append(span)
    if run:
        yield run


def _slug(heading: str) -> str:
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return _NO_SLUG.sub("", text).replace(" ", "-")
