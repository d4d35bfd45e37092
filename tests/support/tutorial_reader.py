"""Somebody who follows a tutorial in the lab, block by block, as the marks in the page say.

A mark is a comment in the line before a block, which readers do not see:

    file: NAME            the block is a file of that name
    add: WORD             the block's lines are added to the nodes of cluster.yaml
    put: NAME             the block's line takes the place of that node's line there
    run, run: WORD        the block's lines are typed; WORD tells two of them apart
    wait: NAME STATE, …   the same, when `bramble nodes` says so of these nodes

Blocks without a mark are for real boards, or never end by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from docs_pages import ROOT, Block, Page
from lab_shell import Shell

MARK: Final = re.compile(r"<!-- (?P<verb>file|add|put|run|wait)(?:: (?P<words>[^>]*))? -->")
SPEC: Final = "cluster.yaml"
ASKS: Final = re.compile(r"bramble (approve|replace) (?P<name>\S+)(?!.*--dry-run)")
"""Lines that ask something before they act."""
ENDS_WITH: Final = {
    "bramble status": (0, 1),  # something may need a person, as the page says
    "kill %2; wait %2": (0, 130),  # 130: a board that lost its power
}
"""Exit codes of lines that need not be 0."""


@dataclass
class Reader:
    """Follows pages one after the other in one shell.

    Attributes:
        typed: Every line that was typed, and what it answered.
        awaited: The row of `bramble nodes` of each node that was waited for, as it was then.
    """

    shell: Shell
    typed: list[tuple[str, str]] = field(default_factory=list)
    awaited: dict[str, dict[str, Any]] = field(default_factory=dict)

    def answers(self, line: str) -> list[str]:
        """What a line answered, each time that it was typed."""
        return [answer for typed, answer in self.typed if typed == line]

    def follow(self, page: str) -> list[str]:
        """Do what a page says, from its beginning to its end; the marks that were followed."""
        verbs = []
        for verb, words, block in steps(Page.load(ROOT / page)):
            verbs.append(verb)
            match verb:
                case "file":
                    (self.shell.work / words).write_text(block.text + "\n")
                case "add":
                    self._add(block.text)
                case "put":
                    self._put(words, block.text)
                case "run":
                    self._type(block)
                case "wait":
                    for wanted in words.split(", "):
                        self._wait(*wanted.split())
                    self._type(block)
        return verbs

    def _wait(self, name: str, state: str) -> None:
        self.awaited[name] = self.shell.wait_for_state(name, state)
        if state == "pending":
            # The server knows that it waits a moment before the board's screen says so.
            self.shell.wait_until(lambda: bool(fingerprints(self.shell, name)), f"a fingerprint of {name}")

    def _add(self, text: str) -> None:
        """As it stands on the page: a reader copies it. `nodes` stands last in the file."""
        with (self.shell.work / SPEC).open("a") as file:
            file.write(f"{text}\n")

    def _put(self, name: str, text: str) -> None:
        path = self.shell.work / SPEC
        before = path.read_text()
        after = re.sub(rf"^  - \{{name: {re.escape(name)},.*$", text, before, flags=re.MULTILINE)
        assert after != before, f"{SPEC} has no line of {name} that could be replaced"
        path.write_text(after)

    def _type(self, block: Block) -> None:
        for line in lines_of(block):
            asks = ASKS.match(line)
            if asks is None:
                answer = self.shell.type(line, codes=ENDS_WITH.get(line, (0,)))
            else:
                answer = self.shell.type(line, answer="y")
            if asks is not None and asks[1] == "approve":
                assert fingerprints(self.shell, asks["name"])[-1] in answer
            self.typed.append((line, answer))


def fingerprints(shell: Shell, name: str) -> list[str]:
    """What a board has shown on its own console, in the file that the page has it write to."""
    console = (shell.work / f"{name}.log").read_text("utf-8", "replace")
    return re.findall(r"fingerprint ((?:[0-9a-f]{4}-){4}[0-9a-f]{4})", console)


def lines_of(block: Block) -> list[str]:
    """What is typed of a block: the lines with a prompt, without their comments."""
    typed = (line.removeprefix("$ ") for line in block.text.splitlines() if line.startswith("$ "))
    return [re.sub(r" +# .*", "", line) for line in typed]


def steps(page: Page) -> Iterator[tuple[str, str, Block]]:
    """(what the mark before a block says, its words, the block), in the order of the page."""
    for span in page.prose:
        match = MARK.fullmatch(span.text.strip())
        if match:
            yield match["verb"], match["words"] or "", next(b for b in page.blocks if b.line == span.line + 2)
