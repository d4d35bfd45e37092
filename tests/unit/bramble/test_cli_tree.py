"""The whole command tree keeps to one set of verbs, options and manners."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest
from click.shell_completion import ShellComplete, get_completion_class
from click.testing import CliRunner

from bramble.cli import EXIT_CODES, bramble
from bramble.cli_completion import PROGRAM, SHELLS, VARIABLE
from fleet.cli_names import NodeName

EXAMPLES: Final = Path(__file__).parents[3] / "examples"


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its name below `bramble`."""
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None, name
        yield from leaves(child, (*path, name))


LEAVES: Final = dict(leaves(bramble))
NO_JSON: Final = {
    "init",
    "serve",
    "api openapi",
    "completion",
    "lab board",
    "lab demo",
    "lab shell",
    "service install",
    "service uninstall",
    "base remove",
    "eeprom apply",
    "agent update",
    "agent halt",
    "approve",
    "reject",
    "revoke",
    "lock release",
    "devices import",
    "devices forget",
    "token revoke",
    "ca prepare",
    "ca switch",
    "ca retire",
}
"""Commands that show nothing which a program would read: they change something and say so in a sentence, or
print another program's text."""
MEANINGS: Final = {
    "--cluster": "-c",
    "--output": "-o",
    "--follow": "-f",
    "--lines": "-n",
}
"""Options with a short form, the same everywhere."""


def options(command: click.Command) -> list[click.Option]:
    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]


def test_what_is_read_can_be_read_by_a_program() -> None:
    without = {name for name, command in LEAVES.items() if "--json" not in str(_names(command))}
    assert without <= NO_JSON, "add --json, or say in NO_JSON that there is nothing to read"


def _names(command: click.Command) -> list[str]:
    return [name for option in options(command) for name in option.opts]


@pytest.mark.parametrize("name", LEAVES, ids=str)
def test_the_help_has_an_example(name: str) -> None:
    command = LEAVES[name]
    texts = f"{command.help or ''}\n{command.epilog or ''}"
    lines = [line.strip() for line in texts.splitlines()]
    assert any(f"bramble {name}" in line for line in lines if not line.endswith(".")), "give an example"


@pytest.mark.parametrize("name", LEAVES, ids=str)
def test_options_mean_the_same_everywhere(name: str) -> None:
    for option in options(LEAVES[name]):
        short = {each for each in option.opts if not each.startswith("--")}
        for long, expected in MEANINGS.items():
            if long in option.opts:
                assert short == {expected}, f"{long} has the short form {expected}"
            else:
                assert expected not in short, f"{expected} is {long}"
        if "--json" in option.opts or "--yes" in option.opts or "--dry-run" in option.opts:
            assert option.is_flag
        for long in option.opts:
            assert "_" not in long
            assert long == long.lower()


@pytest.mark.parametrize("name", LEAVES, ids=str)
def test_nodes_are_completed_wherever_one_is_named(name: str) -> None:
    for parameter in LEAVES[name].params:
        is_node = parameter.metavar == "NODE" or {"--node", "--prove-node"} & set(parameter.opts)
        if is_node or (parameter.name in ("node", "nodes") and isinstance(parameter, click.Argument)):
            assert isinstance(parameter.type, NodeName), parameter.name


def complete(words: list[str], incomplete: str) -> list[str]:
    """What a shell would be offered."""
    cls = get_completion_class("bash")
    assert cls is not None
    found = cls(bramble, {}, PROGRAM, VARIABLE).get_completions(words, incomplete)
    return [item.value for item in found]


def test_names_of_nodes_come_from_the_named_file() -> None:
    file = str(EXAMPLES / "demo.yaml")
    assert complete(["show", "-c", file], "pi") == ["pi5-server", "pi4-agent"]
    assert complete(["agent", "update", "-c", file, "pi4-agent"], "p") == ["pi5-server"]


def test_an_image_is_not_read_as_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text((EXAMPLES / "demo.yaml").read_text())
    (tmp_path / "disk.img").write_text("nodes: [")
    assert complete(["image", "check", "disk.img", "--node"], "cm") == ["cm5-agent"]


def test_names_of_nodes_come_from_cluster_yaml_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text((EXAMPLES / "demo.yaml").read_text())
    assert complete(["approve"], "cm") == ["cm5-agent"]


@pytest.mark.parametrize("text", [None, "nodes: [", "version: 7"], ids=["absent", "broken", "faulty"])
def test_a_file_that_cannot_be_used_completes_to_nothing(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "cluster.yaml").write_text(text)
    assert complete(["approve"], "") == []


def test_commands_and_options_are_completed() -> None:
    assert complete([], "nod") == ["nodes"]
    assert "--watch" in complete(["status"], "--w")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_calls_the_program_back(shell: str) -> None:
    result = CliRunner().invoke(bramble, ["completion", shell])
    assert result.exit_code == 0
    assert f"{VARIABLE}={shell}_complete" in result.output
    cls = get_completion_class(shell)
    assert cls is not None
    assert result.output.strip() == ShellComplete.source(cls(bramble, {}, PROGRAM, VARIABLE)).strip()


def test_an_unknown_command_is_answered_with_the_nearest() -> None:
    result = CliRunner().invoke(bramble, ["statux"])
    assert result.exit_code == 2
    assert "There is no command 'statux'. Did you mean 'status'?" in result.output


def test_an_unknown_option_is_answered_with_the_nearest() -> None:
    result = CliRunner().invoke(bramble, ["nodes", "--jsn"])
    assert result.exit_code == 2
    assert "--json" in result.output


def test_exit_codes_stand_in_the_help() -> None:
    shown = CliRunner().invoke(bramble, ["--help"]).output
    for line in EXIT_CODES.splitlines()[1:]:
        assert line.strip() in shown


def test_a_file_that_is_named_twice_is_refused() -> None:
    result = CliRunner().invoke(bramble, ["nodes", "a.yaml", "-c", "b.yaml"])
    assert result.exit_code == 2
    assert "named twice: b.yaml and a.yaml" in result.output


@pytest.mark.parametrize("value", ["1", ""], ids=["set", "empty"])
def test_no_color_is_honoured_and_empty_is_not_set(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", value)
    seen: list[bool | None] = []

    @bramble.command("probe-of-this-test", hidden=True)
    @click.pass_context
    def probe(context: click.Context) -> None:
        seen.append(context.color)

    monkeypatch.setattr(bramble, "get_command", lambda _context, _name: probe)
    monkeypatch.setattr(bramble, "resolve_command", lambda _context, args: ("probe", probe, args[1:]))
    assert CliRunner().invoke(bramble, ["probe-of-this-test"]).exit_code == 0
    assert seen == [False if os.environ["NO_COLOR"] else None]
