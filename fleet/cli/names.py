"""How commands name a cluster and its nodes: the same words everywhere, completed by the shell.

A command about a cluster takes its file as the last argument or as `-c`; one that takes several names has
`-c` only. Names of nodes are completed from that file, which costs 0.2 s and needs no server.
"""

from __future__ import annotations

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


def default_file() -> Path:
    """The cluster.yaml that is meant where none is named: that of this directory, else of the service."""
    return SERVICE_FILE if not DEFAULT_FILE.exists() and SERVICE_FILE.exists() else DEFAULT_FILE


def cluster_argument(name: str, default: Callable[[], Path] = default_file) -> Callable[[Command], Command]:
    """The cluster's file as the last argument or as `-c`, handed on as `name`.

    Args:
        name: of the argument, in the help too. FILE, where no other file is spoken of.
        default: What is meant where neither is given.
    """
    key = f"{__name__}.{name}"

    def from_option(ctx: click.Context, _param: click.Parameter, value: Path | None) -> None:
        if value is not None:
            _named_once(ctx, key, value)

    def from_argument(ctx: click.Context, _param: click.Parameter, value: Path | None) -> Path:
        if value is not None:
            _named_once(ctx, key, value)
        # The option was looked at before: click goes by what was typed, then by what was not.
        found: Path | None = ctx.meta.get(key)
        return found if found is not None else default()

    def with_file(command: Command) -> Command:
        option = click.option(
            "-c",
            "--cluster",
            "cluster_option",
            type=FILE,
            expose_value=False,
            callback=from_option,
            help=f"The cluster's file, instead of {name.upper()}.",
        )
        return click.argument(name, type=FILE, required=False, callback=from_argument)(option(command))

    return with_file


def _named_once(ctx: click.Context, key: str, value: Path) -> None:
    other = ctx.meta.setdefault(key, value)
    if other is not value and not ctx.resilient_parsing:
        raise click.UsageError(f"The cluster's file is named twice: {other} and {value}.", ctx)


def cluster_file(command: Command) -> Command:
    """The cluster's file, handed on as `file`: the last argument, or `-c`."""
    return cluster_argument("file")(command)


def file_option(command: Command) -> Command:
    """Where nodes are named as arguments, the cluster's file is an option only."""
    return click.option(
        "-c",
        "--cluster",
        "file",
        type=FILE,
        default=default_file,
        show_default=False,
        help=f"The cluster's file. Default: ./{DEFAULT_FILE}, else the service's.",
    )(command)


class RenamedOption(click.Option):
    """An option with a name of before, which goes on working and is shown to nobody.

    Args:
        before: That name, like `--reason`.
    """

    def __init__(self, *args: Any, before: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.before = before

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """As click does it, and the name of before beside the present one."""
        super().add_to_parser(parser, ctx)
        parser.add_option(obj=self, opts=[self.before], dest=self.name, nargs=self.nargs)


def _cluster_of(ctx: click.Context) -> Path:
    """The cluster's file, as far as the line is typed. FILE of some commands is an image."""
    for name in ("cluster", "file"):
        given = ctx.params.get(name) or ctx.meta.get(f"{__name__}.{name}")
        if given is not None and Path(given).suffix in (".yaml", ".yml"):
            return Path(given)
    return default_file()


class NodeName(click.ParamType[str]):
    """The name of a declared node. Whether there is one is for the command to say: a board's serial will
    often do as well."""

    name = "node"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """A name as it was typed; no node has one that cannot be shown, nor one that is no UTF-8."""
        if not value.isprintable():
            self.fail(f"{value!a} is no name of a node or a board.", param, ctx)
        return value

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
