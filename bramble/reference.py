"""Write the reference page from what the program itself knows: its command tree.

A test keeps the committed page equal to this module's output, so that the page can not drift.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from bramble.cli import bramble

HEADER = """# Reference

Written by `make docs` from the command tree; do not edit by hand.
"""


def render_reference(root: click.Command) -> str:
    """The whole page as Markdown."""
    context = click.Context(root, info_name=root.name)
    return HEADER + "".join(_sections(root, context)) + "\n"


def _sections(command: click.Command, context: click.Context) -> Iterator[str]:
    """One section for `command`, then those of its subcommands, in the order of the help."""
    yield f"\n## `{context.command_path}`\n\n```\n{command.get_help(context)}\n```\n"
    if not isinstance(command, click.Group):
        return
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        if child is not None and not child.hidden:
            yield from _sections(child, click.Context(child, info_name=name, parent=context))


def main() -> None:
    """Write the page to the path given as the only argument."""
    Path(sys.argv[1]).write_text(render_reference(bramble), encoding="utf-8")


if __name__ == "__main__":
    main()
