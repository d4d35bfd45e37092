"""Commands that hints, pages and rules name are commands that there are."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from bramble.cli import COMMANDS, bramble

ROOT = Path(__file__).parents[3]
NAMED = re.compile(r"""(?<=['`>])bramble ([a-z][a-z-]+)(?: ([a-z][a-z-]+))?""")
KINDS = {".py", ".html", ".yml", ".yaml", ".j2", ".sh", ".toml"}


def texts(top: str) -> list[Path]:
    return sorted(path for path in (ROOT / top).rglob("*") if path.suffix in KINDS)


@pytest.mark.parametrize(
    "top", ["bramble", "fleet", "imagebuilder", "pxe", "lab", "agent", "deploy", "examples", "cloud-init"]
)
def test_every_command_that_is_named_exists(top: str) -> None:
    context = click.Context(bramble)
    missing = []
    for path in texts(top):
        for name, sub in NAMED.findall(path.read_text(encoding="utf-8")):
            command = bramble.get_command(context, name) if name in COMMANDS else None
            is_known = command is not None and (
                not sub or not isinstance(command, click.Group) or command.get_command(context, sub)
            )
            if not is_known:
                missing.append(f"{path.relative_to(ROOT)}: bramble {name} {sub}".strip())
    assert missing == []
