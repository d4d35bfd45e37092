"""Write the reference page from what the program knows: its command tree and the models of cluster.yaml.

A test keeps the committed page equal to this module's output, so that the page can not drift.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import click

from bramble.cli import bramble
from bramble.command_groups import GROUPS
from bramble.reference_keys import KeyEntry, document_keys

HEADER: Final = """# Reference

Written by `make docs` from the command tree and from the models of cluster.yaml; do not edit by hand.
"""
CONTENTS: Final[Mapping[str, tuple[str, ...]]] = {heading: tuple(lines) for heading, lines in GROUPS.items()}
"""What people want to do → commands, for the head of the page. Its sections have the order of the help."""
KEYS_HEADER: Final = """
## cluster.yaml

Every key of the file. `nodes[].mac` is the key `mac` of each node. The second column says what to write; the
third what holds where the key is left out, and nothing there means that it is then not set. A node takes what
it does not say from `defaults`. Relative paths start at the file's folder. Secrets never stand in the file.
`bramble check` reports everything that does not fit, at once.

| key | write | default | meaning |
|---|---|---|---|
"""
WIDTH: Final = 100
"""Columns of the help texts: the page must not depend on the terminal where it is written."""


def render_reference(root: click.Command) -> str:
    """The whole page as Markdown."""
    context = _context(root, root.name or "", None)
    return (
        HEADER + _contents(root, context) + "".join(_sections(root, context)) + render_keys(document_keys())
    )


def _contents(root: click.Command, context: click.Context) -> str:
    """Every command by what it is for, with a link to its section."""
    present = root.list_commands(context) if isinstance(root, click.Group) else []
    known = {name for names in CONTENTS.values() for name in names}
    groups = {**CONTENTS, "More": tuple(name for name in present if name not in known)}
    lines = [
        f"- {purpose}: {' · '.join(_link(root, name) for name in names if name in present)}\n"
        for purpose, names in groups.items()
        if any(name in present for name in names)
    ]
    return f"\n{''.join(lines)}- The file: [cluster.yaml](#clusteryaml), every key\n"


def _link(root: click.Command, name: str) -> str:
    return f"[{name}](#{root.name}-{name})"


def render_keys(entries: Iterable[KeyEntry]) -> str:
    """The keys of cluster.yaml as a section with a table."""
    rows = (
        f"| `{entry.key}` | {entry.kind} | {entry.default} | {entry.meaning} |\n".replace("|  |", "| |")
        for entry in entries
    )
    return KEYS_HEADER + "".join(rows)


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    return click.Context(
        command,
        info_name=name,
        parent=parent,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        **command.context_settings,
    )


def _sections(command: click.Command, context: click.Context) -> Iterator[str]:
    """One section for `command`, then those of its subcommands, in the order of the help."""
    # click keeps the help option of whichever context asked first; a command that ran by itself before, in a
    # test, would show other names than below the root.
    command._help_option = None
    yield f"\n## `{context.command_path}`\n\n```\n{command.get_help(context)}\n```\n"
    if not isinstance(command, click.Group):
        return
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        if child is not None and not child.hidden:
            yield from _sections(child, _context(child, name, context))


def main() -> None:
    """Write the page to the path given as the only argument."""
    Path(sys.argv[1]).write_text(render_reference(bramble), encoding="utf-8")


if __name__ == "__main__":
    main()
