"""The `bramble` command: one tree over every room.

Commands live in their rooms' `cli` modules and are imported when they are used, so that `bramble check` does
not pay for the web framework of `bramble serve`. Errors of all rooms are printed here, in one form, with one
set of exit codes: 0 ok, 1 failed, 2 usage or invalid input, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import click

from bramble.logs import LogFormat, set_up_logging

COMMANDS = {
    "init": "fleet.cli_spec:init",
    "check": "bramble.sized_commands:check",
    "base": "imagebuilder.cli_bases:base",
    "build": "bramble.prove_command:build",
    "gc": "imagebuilder.cli_store:gc",
    "store": "imagebuilder.cli_store:store_commands",
    "flash": "bramble.flash_command:flash",
    "image": "bramble.cli:image",
    "serve": "bramble.serve_command:serve",
    "dhcp": "pxe.cli_dhcp:dhcp",
    "boot-image": "bramble.boot_image_command:boot_image",
    "apply": "fleet.cli_apply:apply",
    "nodes": "fleet.cli:nodes",
    "show": "fleet.cli:show",
    "doctor": "bramble.doctor.cli:doctor",
    "eeprom": "fleet.cli_eeprom:eeprom",
    "agent": "fleet.cli_agent:agent",
    "logs": "fleet.cli_errands:logs",
    "run": "fleet.cli_errands:run",
    "approve": "fleet.cli_people:approve",
    "reject": "fleet.cli_people:reject",
    "revoke": "fleet.cli_people:revoke",
    "devices": "fleet.cli_people:devices",
    "token": "fleet.cli_token:token",
    "api": "fleet.cli_token:api",
    "ca": "fleet.cli_ca:ca",
    "backup": "fleet.cli_backup:backup",
    "restore": "fleet.cli_backup:restore",
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


@runtime_checkable
class ExplainedError(Protocol):
    """What the root error of every room has: what happened, and what to do next."""

    message: str
    hint: str


class LazyGroup(click.Group):
    """A group whose commands are imported on first use: name → ``module:attribute``."""

    def __init__(self, *args: Any, targets: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._targets = targets

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._targets)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = self._targets.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.group(cls=LazyGroup, targets=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bramble", message="bramble %(version)s")
@click.option("-v", "--verbose", count=True, help="Say more on stderr; twice for debugging.")
@click.option(
    "--log-format",
    type=click.Choice([form.value for form in LogFormat]),
    default=LogFormat.AUTO.value,
    envvar="BRAMBLE_LOG_FORMAT",
    help="auto: JSON lines under systemd, else text.",
)
def bramble(verbose: int, log_format: str) -> None:
    """Power on a Raspberry Pi and it becomes a node of your k3s cluster."""
    set_up_logging(verbose, LogFormat(log_format).resolve(os.environ))


@click.group(cls=LazyGroup, targets=IMAGE_COMMANDS)
def image() -> None:
    """Look at, compare and prove disk images."""


def main() -> None:
    """Run the command and turn what it raises into text and an exit code."""
    try:
        result = bramble.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except Exception as exc:
        if not isinstance(exc, ExplainedError):
            raise
        explain(exc)
        sys.exit(getattr(exc, "exit_code", 1))
    sys.exit(result if isinstance(result, int) else 0)


def explain(error: ExplainedError) -> None:
    """Print what happened, then what to do next, on stderr."""
    click.secho("error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(error.message, err=True)
    for line in error.hint.splitlines():
        click.echo(f"  {line}", err=True)


if __name__ == "__main__":
    main()
