"""How a group of commands helps: the whole first sentence of each, and the nearest name for a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Final

import click
from click.shell_completion import CompletionItem

WHOLE: Final = 1000
"""Longer than any first sentence; click cuts at 80 columns and says "..." otherwise."""
CLOSE_ENOUGH: Final = 0.6
"""difflib's own measure, 0.0–1.0: `statux` is near `status`, `foo` near nothing."""


class HelpfulGroup(click.Group):
    """A group of commands, as every group of `bramble` is one."""

    def lines(self, ctx: click.Context) -> Iterator[tuple[str, str]]:
        """Each command that is shown, with the first sentence of its help."""
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                yield name, command.get_short_help_str(WHOLE)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lines that are too long go on in the next, where click would cut them."""
        rows = list(self.lines(ctx))
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands with their lines, then options."""
        found = [
            CompletionItem(name, help=line) for name, line in self.lines(ctx) if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it; a name that there is not is answered with the nearest one."""
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, known, n=1, cutoff=CLOSE_ENOUGH)
            question = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"There is no command {name!r}.{question}")
        return super().resolve_command(ctx, args)
