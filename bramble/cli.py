"""The `bramble` command: one tree over every room.

Commands live in their rooms' `cli` modules and are imported when they are used, so that `bramble check` does
not pay for the web framework of `bramble serve`. Errors of all rooms are printed here, in one form, with one
set of exit codes: `EXIT_CODES`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Protocol, runtime_checkable

import click

from bramble.command_groups import GROUPS
from bramble.ending import may_be_ended
from bramble.logs import LogFormat, set_up_logging
from fleet.cli.groups import HelpfulGroup

COMMANDS = {
    "init": "fleet.cli.spec:init",
    "check": "bramble.sized_commands:check",
    "base": "imagebuilder.cli_bases:base",
    "build": "bramble.prove_command:build",
    "gc": "bramble.gc_command:gc",
    "store": "imagebuilder.cli_store:store_commands",
    "flash": "bramble.flash_command:flash",
    "image": "bramble.cli:image",
    "serve": "bramble.serve_command:serve",
    "service": "bramble.cli_service:service",
    "dhcp": "pxe.cli_dhcp:dhcp",
    "boot-image": "bramble.boot_image_command:boot_image",
    "apply": "fleet.cli.apply:apply",
    "nodes": "fleet.cli.nodes:nodes",
    "status": "bramble.cli_status:status",
    "show": "fleet.cli.nodes:show",
    "doctor": "bramble.doctor.cli:doctor",
    "eeprom": "fleet.cli.eeprom:eeprom",
    "reimage": "fleet.cli.reimage:reimage",
    "replace": "fleet.cli.reimage:replace",
    "decommission": "fleet.cli.reimage:decommission",
    "cancel": "fleet.cli.reimage:cancel",
    "rollout": "fleet.cli.rollout:rollout",
    "policy": "fleet.cli.policy:policy",
    "lock": "fleet.cli.policy:lock",
    "power": "fleet.cli.power:power",
    "agent": "fleet.cli.agent:agent",
    "logs": "fleet.cli.errands:logs",
    "run": "fleet.cli.errands:run",
    "approve": "fleet.cli.people:approve",
    "reject": "fleet.cli.people:reject",
    "revoke": "fleet.cli.people:revoke",
    "devices": "fleet.cli.people:devices",
    "token": "fleet.cli.token:token",
    "api": "fleet.cli.token:api",
    "dashboard": "fleet.cli.dashboard:dashboard",
    "ca": "fleet.cli.ca:ca",
    "backup": "fleet.cli.backup:backup",
    "restore": "fleet.cli.backup:restore",
    "notify": "fleet.cli.notify:notify",
    "snapshot": "fleet.cli.snapshot:snapshot",
    "etcd": "fleet.cli.etcd:etcd",
    "recover": "fleet.cli.recover:recover",
    "completion": "bramble.cli_completion:completion",
    "lab": "bramble.lab_commands:lab",
}
"""Command name → where it is defined, in the order in which a user meets them."""

IMAGE_COMMANDS = {
    "inspect": "imagebuilder.cli_inspect:inspect",
    "check": "imagebuilder.cli_preflight:check",
    "show": "imagebuilder.cli_image:show",
    "verify": "imagebuilder.cli_image:verify",
    "diff": "imagebuilder.cli_preflight:diff",
    "prove": "bramble.prove_command:prove",
    "node": "bramble.image_command:node",
    "apply-delta": "bramble.image_command:apply_delta",
}

EXIT_CODES = """\b
Exit codes
  0    done
  1    it failed, or you said no; stderr says why and what to do
  2    wrong usage, or a file or value that cannot be used
  125  'bramble run' only: the node did not run the command
  130  interrupted
Commands that look at something have codes of their own; their help says which.
Colours go away with NO_COLOR=1, and where the output is no terminal.
"""


OWN_PACKAGES: Final = ("agent", "bramble", "fleet", "imagebuilder", "lab", "pxe")


@runtime_checkable
class ExplainedError(Protocol):
    """What the root error of every room has: what happened, and what to do next."""

    message: str
    hint: str


class InstallationError(Exception):
    """What Bramble stands on is not all there."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class LazyGroup(HelpfulGroup):
    """A group whose commands are imported on first use: name → ``module:attribute``.

    Args:
        groups: Heading → command → its line in the help. Given, help and completion import no command.
    """

    def __init__(
        self,
        *args: Any,
        targets: Mapping[str, str],
        groups: Mapping[str, Mapping[str, str]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._targets = targets
        self._groups = groups or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._targets)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = self._targets.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def lines(self, ctx: click.Context) -> Iterator[tuple[str, str]]:
        """From the headings, where there are such."""
        if not self._groups:
            yield from super().lines(ctx)
        for lines in self._groups.values():
            yield from lines.items()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """By what they are for, where that is known."""
        if not self._groups:
            return super().format_commands(ctx, formatter)
        widest = max(map(len, self._targets))
        for heading, lines in self._groups.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(widest), line) for name, line in lines.items()])
        return None


@click.group(
    cls=LazyGroup,
    targets=COMMANDS,
    groups=GROUPS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES,
)
@click.version_option(package_name="bramble", message="bramble %(version)s")
@click.option("-v", "--verbose", count=True, help="Say more on stderr; twice for debugging.")
@click.option(
    "--log-format",
    type=click.Choice([form.value for form in LogFormat]),
    default=LogFormat.AUTO.value,
    envvar="BRAMBLE_LOG_FORMAT",
    help="auto: JSON lines under systemd, else text.",
)
@click.pass_context
def bramble(context: click.Context, verbose: int, log_format: str) -> None:
    """Power on a Raspberry Pi and it becomes a node of your k3s cluster."""
    if _is_plain():
        context.color = False
    set_up_logging(verbose, LogFormat(log_format).resolve(os.environ))


@click.group(cls=LazyGroup, targets=IMAGE_COMMANDS)
def image() -> None:
    """Look at, compare and prove disk images."""


def main() -> None:
    """Run the command and turn what it raises into text and an exit code."""
    may_be_ended()
    try:
        result = bramble.main(prog_name="bramble", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as exc:
        explain_usage(exc)
        sys.exit(exc.exit_code)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] in OWN_PACKAGES:
            raise
        explain(
            InstallationError(
                f"Python's package {exc.name!r} is not installed, and this version of Bramble needs it",
                "In a checkout, run 'make setup' after each 'git pull'; else install Bramble again.",
            )
        )
        sys.exit(1)
    except Exception as exc:
        if not isinstance(exc, ExplainedError):
            raise
        explain(exc)
        sys.exit(getattr(exc, "exit_code", 1))
    sys.exit(result if isinstance(result, int) else 0)


def explain(error: ExplainedError) -> None:
    """Print what happened, then what to do next, on stderr."""
    _tell(error.message, error.hint.splitlines())


def explain_usage(error: click.ClickException) -> None:
    """The same of what click finds wrong with the words of a command; no words at all get the help."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return
    context = error.ctx if isinstance(error, click.UsageError) else None
    how = [] if context is None else [context.get_usage(), f"'{context.command_path} --help' says more."]
    # click has each choice of a value on a line of its own.
    _tell(" ".join(error.format_message().split()), [line for text in how for line in text.splitlines()])


def _tell(message: str, more: Iterable[str]) -> None:
    click.secho("error: ", fg="red", bold=True, nl=False, err=True, color=False if _is_plain() else None)
    click.echo(message, err=True)
    for line in more:
        click.echo(f"  {line}", err=True)


def _is_plain() -> bool:
    """Whether the user wants no colours anywhere. Source: no-color.org: set, and not empty."""
    return bool(os.environ.get("NO_COLOR"))


if __name__ == "__main__":
    main()
