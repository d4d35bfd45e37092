"""How commands name a cluster and its nodes: the same words everywhere, completed by the shell.

A command about a cluster takes its file as the last argument or as `-c`; one that takes several names has
`-c` only. Names of nodes are completed from that file, which costs 0.2 s and needs no server.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from fleet.errors import FleetError
from fleet.spec import load_cluster

DEFAULT_FILE: Final = Path("cluster.yaml")
SERVICE_FILE: Final = Path("/etc/bramble/cluster.yaml")
FILE: Final = click.Path(path_type=Path, dir_okay=False)
Command = TypeVar("Command", bound=Callable[..., Any])


def cluster_file(command: Command) -> Command:
    """The cluster's file, handed on as `file`: the last argument, or `-c`."""

    @click.argument("file", type=FILE, required=False)
    @click.option("-c", "--cluster", "cluster", type=FILE, help="The cluster's file, instead of FILE.")
    @functools.wraps(command)
    def with_file(*args: Any, file: Path | None, cluster: Path | None, **values: Any) -> Any:
        if file is not None and cluster is not None:
            raise click.UsageError(f"The cluster's file is named twice: {cluster} and {file}.")
        return command(*args, file=file or cluster or default_file(), **values)

    return with_file  # type: ignore[return-value]  # the same command for click, which calls it by name


def default_file() -> Path:
    """The cluster.yaml that is meant where none is named: that of this directory, else of the service."""
    return SERVICE_FILE if not DEFAULT_FILE.exists() and SERVICE_FILE.exists() else DEFAULT_FILE


def file_option(command: Command) -> Command:
    """Where nodes are named as arguments, the cluster's file is an option only."""
    return click.option(
        "-c",
        "--cluster",
        "file",
        type=FILE,
        default=default_file,
        show_default=str(DEFAULT_FILE),
        help="The cluster's file.",
    )(command)


def _cluster_of(ctx: click.Context) -> Path:
    """The cluster's file, as far as the line is typed. FILE of some commands is an image."""
    for name in ("cluster", "file"):
        given = ctx.params.get(name)
        if given is not None and Path(given).suffix in (".yaml", ".yml"):
            return Path(given)
    return default_file()


class NodeName(click.ParamType[str]):
    """The name of a declared node. Whether there is one is for the command to say: a board's serial will
    often do as well."""

    name = "node"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The declared names; none where the file cannot be read: a shell has no place for errors."""
        try:
            nodes = load_cluster(_cluster_of(ctx)).nodes
        except (FleetError, OSError):
            return []
        taken = ctx.params.get(param.name or "") or ()
        return [
            CompletionItem(node.name, help=f"{node.role}, {node.board.title}")
            for node in nodes
            if node.name.startswith(incomplete) and node.name not in taken
        ]


NODE: Final = NodeName()
