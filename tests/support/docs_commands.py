"""Commands that documents show, held against the real command tree: commands, options, their values, and how
many arguments. Nothing is run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import click
from docs_pages import ROOT, Block, Complaint, Page, Span

from bramble.cli import bramble

SHELLS: Final = frozenset({"", "console", "sh", "bash", "shell"})
"""Languages of blocks that hold commands. Others (yaml, json, ini …) hold none."""
_PREFIX: Final = re.compile(
    r"^(?:sudo (?:-\w+ )*|env |\w+=(?:\"[^\"]*\"|\S*) |Example: "
    r"|(?:podman|docker) exec (?:-\w+ )*\S+ |kubectl (?:\S+ )*?-- )*(?:\.venv/bin/)?(?=bramble\b)"
)
_PROMPT: Final = re.compile(r"^\s*[$#] ")
_REDIRECTION: Final = re.compile(r"\s\d?>&\d|\s\d(?=>)")
"""What shlex takes for words: 2>&1, and the number before a redirection."""
_SUBSTITUTION: Final = re.compile(r"\$\([^()]*\)")
_CHECKED: Final = (click.Choice, click.types.IntParamType, click.types.FloatParamType)
"""Types of which a value can be judged without a machine to look at."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A command line as a page shows it, without prompt, sudo and comment."""

    words: tuple[str, ...]
    line: int


def shown_in(block: Block) -> Iterator[Shown]:
    """The `bramble` commands of a block. Where a block has prompts, the other lines are output."""
    if block.language not in SHELLS:
        return
    lines = list(_joined(block))
    if any(re.match(r"\s*\$ ", span.text) for span in lines):
        lines = [span for span in lines if re.match(r"\s*\$ ", span.text)]
    for span in lines:
        yield from shown_in_line(span)


def shown_in_line(span: Span) -> Iterator[Shown]:
    """The `bramble` commands of one line of a shell."""
    text = _PROMPT.sub("", span.text).strip()
    if "bramble " not in text:
        return
    for part in _simple_commands(text):
        line = _PREFIX.sub("", " ".join(map(_quoted, part)))
        words = shlex.split(line)
        if words[:1] == ["bramble"]:
            yield Shown(tuple(words[1:]), span.line)


def _quoted(word: str) -> str:
    return shlex.quote(word) if any(c in word for c in " '\"$\\`") else word


def _simple_commands(text: str) -> Iterator[list[str]]:
    """What the shell would run one by one; redirections and their files are left out."""
    text = _REDIRECTION.sub(" ", _SUBSTITUTION.sub("X", text))
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;<>()")
    lexer.commenters = ""
    lexer.whitespace_split = True
    part: list[str] = []
    skip = False
    try:
        words = list(lexer)
    except ValueError:
        return  # a quotation mark of running text, not a line of a shell
    for word in words:
        if word.startswith("#"):
            break
        if skip:
            skip = False
        elif word and set(word) <= set("<>"):
            skip = True
        elif word and set(word) <= set("|&;()"):
            yield part
            part = []
        else:
            part.append(word)
    yield part


def _joined(block: Block) -> Iterator[Span]:
    """The lines of a block; one that ends with a backslash goes on in the next."""
    begun, first = "", 0
    for number, line in enumerate(block.text.splitlines(), start=block.line):
        first = first if begun else number
        if line.endswith("\\"):
            begun += line[:-1]
            continue
        yield Span(begun + line, first)
        begun = ""


def command_complaints(page: Page) -> Iterator[Complaint]:
    """Every command of a page that the real command would refuse."""
    for block in page.blocks:
        for shown in shown_in(block):
            fault = fault_of(shown.words)
            if fault:
                yield Complaint(page.name, shown.line, f"'bramble {' '.join(shown.words)}': {fault}")
    for span in page.words:
        if not _PREFIX.sub("", span.text).startswith("bramble "):
            continue
        for shown in shown_in_line(Span(span.text, span.line)):
            fault = fault_of(shown.words, is_mention=True)
            if fault:
                yield Complaint(page.name, shown.line, f"`{span.text}`: {fault}")
    yield from _make_complaints(page)


def fault_of(words: Sequence[str], *, is_mention: bool = False) -> str | None:
    """What the command line would be refused for; None: nothing.

    Args:
        is_mention: in running text the name of a command, or of a group, may stand for itself.
    """
    words = [word for word in words if word != "…"]
    command: click.Command = bramble
    context = click.Context(bramble, info_name="bramble")
    while True:
        parser = command.make_parser(context)
        try:
            options, rest, _order = parser.parse_args(list(words))
        except click.UsageError as exc:
            return exc.format_message()
        fault = _values_fault(command, context, options, is_mention=is_mention)
        if fault or not isinstance(command, click.Group):
            return fault or (f"one argument too many: {rest[0]!r}" if rest else None)
        if not rest:
            alone = command.invoke_without_command or any(value is True for value in options.values())
            done = is_mention or alone
            return None if done else "this is a group; a command of it is missing"
        child = command.get_command(context, rest[0])
        if child is None:
            return f"there is no command {rest[0]!r}"
        context = click.Context(child, info_name=rest[0], parent=context, **child.context_settings)
        command, words = child, rest[1:]


def _values_fault(
    command: click.Command, context: click.Context, options: dict[str, object], *, is_mention: bool
) -> str | None:
    if any(options.get(name) is True for name in ("help", "_click_default_help", "version")):
        return None
    for parameter in command.params:
        texts = list(_texts(options.get(parameter.name or "")))
        if not texts and parameter.required and not is_mention and not _is_flag_set(parameter, options):
            return f"{parameter.make_metavar(context)} is missing"
        if isinstance(parameter.type, _CHECKED):
            for text in texts:
                try:
                    parameter.type(text, parameter, context)
                except click.UsageError as exc:
                    if not text.isupper():  # a placeholder: BOARD, N
                        return exc.format_message()
    return None


def _texts(given: object) -> Iterator[str]:
    """What was written for a parameter; click has marks of its own for what was not."""
    if isinstance(given, str):
        yield given
    elif isinstance(given, list | tuple):
        for each in given:
            yield from _texts(each)


def _is_flag_set(parameter: click.Parameter, options: dict[str, object]) -> bool:
    return options.get(parameter.name or "") is True


@cache
def make_targets() -> frozenset[str]:
    """What `make` knows."""
    text = (ROOT / "Makefile").read_text("utf-8")
    return frozenset(re.findall(r"^([a-z0-9-]+):", text, re.MULTILINE))


def _make_complaints(page: Page) -> Iterator[Complaint]:
    spans = [
        Span(_PROMPT.sub("", line), number)
        for block in page.blocks
        if block.language in SHELLS
        for number, line in enumerate(block.text.splitlines(), start=block.line)
    ]
    for span in (*spans, *page.words):
        match = re.match(r"make ([a-z][a-z0-9-]*)", span.text)
        if match and match[1] not in make_targets():
            yield Complaint(page.name, span.line, f"there is no make target {match[1]!r}")


@cache
def option_names() -> frozenset[str]:
    """Every option of every command."""
    return frozenset(_options(bramble))


def _options(command: click.Command) -> Iterator[str]:
    context = click.Context(command)
    for parameter in command.get_params(context):
        yield from parameter.opts
        yield from parameter.secondary_opts
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                yield from _options(child)
