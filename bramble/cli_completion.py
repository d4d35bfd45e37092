"""`bramble completion SHELL`: what makes the shell complete commands, options and the names of nodes."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import ShellComplete, get_completion_class

SHELLS: Final = ("bash", "zsh", "fish")
PROGRAM: Final = "bramble"
VARIABLE: Final = "_BRAMBLE_COMPLETE"
"""How the script asks the program. Source: click, "Shell Completion": `_<PROGRAM>_COMPLETE`."""


@click.command()
@click.argument("shell", type=click.Choice(SHELLS), metavar="SHELL")
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL: bash (4.4 and newer), zsh or fish.

    Commands, options and files are completed, and the names of nodes from cluster.yaml or the file of -c. The
    Debian package installs the scripts by itself.

    \b
    bramble completion bash > ~/.local/share/bash-completion/completions/bramble
    bramble completion zsh > "${fpath[1]}/_bramble"
    bramble completion fish > ~/.config/fish/completions/bramble.fish
    """
    found = get_completion_class(shell)
    assert found is not None  # the choice
    script = found(context.find_root().command, {}, PROGRAM, VARIABLE)
    # Bash's own `source` starts a bash to look at its version; the script is the same for all.
    click.echo(ShellComplete.source(script))
