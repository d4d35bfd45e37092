"""A reader who types what a page shows, in a directory of his own; nothing that the page does not have."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from docs_commands import shown_in, shown_in_line
from docs_pages import ROOT, Page, Span

from bramble.cli import ExplainedError, bramble


@dataclass(frozen=True, slots=True)
class Typed:
    """What a command answered: its exit code, standard output, and what went to standard error."""

    exit_code: int
    output: str
    errors: str


class Reader:
    """Types commands of pages into the real command tree, in this process.

    Args:
        directory: where he is; the caller has changed to it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def type(self, page: str, command: str, *extra: str, answer: str | None = None) -> Typed:
        """Run `command`, which `page` shows, and say what came of it.

        Args:
            extra: what a test adds where the page leaves it to a person, like `--yes`.
            answer: what he types when he is asked, on a terminal.
        """
        text, _, target = command.partition(" > ")
        words = shlex.split(text)
        assert words[0] == "bramble"
        assert tuple(words[1:]) in shown_on(Page.load(ROOT / page)), f"{page} does not show '{command}'"
        with pytest.MonkeyPatch.context() as patch:
            if answer is not None:
                patch.setattr("fleet.cli.questions.is_terminal", lambda: True)
            result = CliRunner().invoke(bramble, [*words[1:], *extra], input=answer)
        error: object = result.exception
        if target:
            (self.directory / target).write_text(result.stdout)
        if isinstance(error, ExplainedError):
            code = getattr(error, "exit_code", 1)
            return Typed(code, result.stdout, f"{result.stderr}{error.message}\n{error.hint}")
        if isinstance(error, Exception):
            raise error
        return Typed(result.exit_code, result.stdout, result.stderr)


def shown_on(page: Page) -> set[tuple[str, ...]]:
    """Every `bramble` command of a page, as the words behind `bramble`."""
    spans = [Span(span.text, span.line) for span in page.words if span.text.startswith("bramble ")]
    blocks = (shown for block in page.blocks for shown in shown_in(block))
    return {shown.words for shown in (*blocks, *(each for span in spans for each in shown_in_line(span)))}


def file_of(page: str, name: str) -> str:
    """The text of the block that a page marks as a file, with `<!-- file: NAME -->` in the line before it."""
    return marked(page, f"<!-- file: {name} -->")


def marked(page: str, mark: str) -> str:
    """The text of the block behind a mark."""
    loaded = Page.load(ROOT / page)
    (line,) = (span.line for span in loaded.prose if span.text.strip() == mark)
    return next(block.text for block in loaded.blocks if block.line == line + 2) + "\n"


def declare(page: str, word: str, count: int | None = None) -> None:
    """Put the nodes that a page marks with `<!-- add: WORD -->` into cluster.yaml, all or the first ones."""
    path = Path("cluster.yaml")
    document = yaml.safe_load(path.read_text())
    document["nodes"] += yaml.safe_load(marked(page, f"<!-- add: {word} -->"))[:count]
    path.write_text(yaml.safe_dump(document, sort_keys=False))
