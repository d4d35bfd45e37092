"""The whole command tree keeps to one set of verbs, options and manners."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import click
import pytest
from click.shell_completion import ShellComplete, get_completion_class
from click.testing import CliRunner

from bramble.cli import EXIT_CODES, bramble
from bramble.cli_completion import PROGRAM, SHELLS, VARIABLE
from fleet.cli.groups import HelpfulGroup
from fleet.cli.names import NodeName
from imagebuilder.flash.devices import Disk, Inventory, Use

EXAMPLES: Final = Path(__file__).parents[3] / "examples"


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its name below `bramble`."""
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    if command.invoke_without_command:
        yield " ".join(path), command
    context = click.Context(command)
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None, name
        yield from leaves(child, (*path, name))


def groups(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Group]]:
    """Every group with its name below `bramble`; the root has none."""
    if not isinstance(command, click.Group):
        return
    yield " ".join(path), command
    context = click.Context(command)
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None, name
        yield from groups(child, (*path, name))


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
SHORT: Final = {
    "--cluster": "-c",
    "--output": "-o",
    "--follow": "-f",
    "--lines": "-n",
}
"""Options with a short form, the same everywhere."""
VALUES: Final[dict[str, str | None]] = {
    # What is meant.
    "--cluster": "FILE",
    "--node": "NODE",
    "--image": "ID",
    "--board": "MODEL",
    "--interface": "NAME",
    "--server": "ADDRESS",
    "--mirror": "URL",
    "--url": "URL",
    "--store": "URL",
    "--k3s": "DIR",
    "--output": "DIR",
    "--keep": "DIR",
    "--key": "PEM",
    "--sign-key": "PEM",
    "--new-key": "PEM",
    "--passphrase-file": "FILE",
    # How much, how long.
    "--lines": "N",
    "--max-parallel": "N",
    "--timeout": "SECONDS",
    "--listen": "SECONDS",
    "--soak": "TIME",
    "--ttl": "TIME",
    "--unused": "TIME",
    "--budget": "SIZE",
    # Words of a person.
    "--why": "TEXT",
    # In which manner.
    "--json": None,
    "--dry-run": None,
    "--yes": None,
    "--force": None,
    "--wait": None,
    "--watch": None,
    "--follow": None,
    "--all": None,
    "--no-verify": None,
    "--verify": None,
    "--strict": None,
}
"""Option → what it takes, the same wherever it is; None: it is a flag."""
OTHERWISE: Final = {
    ("doctor", "--board"): "NAME|SERIAL|MAC",  # one board, where others name a kind of boards
    ("flash", "--image"): "FILE",  # an image that Bramble does not know
    ("image node", "--output"): "FILE",  # writes one file, where others write several
    ("image apply-delta", "--output"): "FILE",
    ("base fetch", "--key"): "FILE",  # OpenPGP
    ("approve", "--key"): "FINGERPRINT",  # the beginning of a node's key, as its screen shows it
    ("reject", "--key"): "FINGERPRINT",
    ("snapshot prune", "--keep"): "N",  # how many are left
    ("lab demo", "--keep"): None,  # keeps the directory that it works in
    ("lab bootrom", "--server"): "ADDRESS[:PORT]",
}
"""Where an option takes something else, and why."""
OLD_NAMES: Final = {"boot-image": ("--sign-key", "--key"), "lock release": ("--why", "--reason")}
"""Command → an option's name, and its name of before, which goes on working."""
NO_CLUSTER: Final = {
    *("base build", "base fetch", "base list", "base remove", "base show"),
    *("store list", "store verify", "image inspect", "image diff", "image apply-delta"),
    *("service status", "service uninstall", "eeprom check", "api openapi", "completion"),
    *("lab board", "lab bootrom", "lab demo", "lab k3s", "lab shell"),
}
"""Commands that are about no cluster."""


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
    *_, examples = inspect.cleandoc(command.help or "").split("\n\n\b\n")
    lines = examples.splitlines()
    assert any(f"bramble {name}" in line for line in lines), "give an example, in a block at the end"
    assert all(line == line.lstrip() for line in lines), "one form of examples: no heading, no indentation"
    assert not command.epilog


@pytest.mark.parametrize("name", LEAVES, ids=str)
def test_options_mean_the_same_everywhere(name: str) -> None:
    command = LEAVES[name]
    context = click.Context(command, info_name=name)
    for option in options(command):
        short = {each for each in option.opts if not each.startswith("--")}
        for long, expected in SHORT.items():
            if long in option.opts:
                assert short == {expected}, f"{long} has the short form {expected}"
            else:
                assert expected not in short, f"{expected} is {long}"
        for long in set(option.opts) - short:
            assert "_" not in long
            assert long == long.lower()
            taken = None if option.is_flag else option.make_metavar(context)
            wanted = OTHERWISE.get((name, long), VALUES.get(long, taken))
            assert taken == wanted, f"{long} takes {wanted}"


@pytest.mark.parametrize("name", OLD_NAMES, ids=str)
def test_a_name_of_before_goes_on_working_and_is_not_shown(name: str) -> None:
    present, before = OLD_NAMES[name]
    command = LEAVES[name]
    (option,) = (option for option in options(command) if present in option.opts)
    context = click.Context(command, resilient_parsing=True)
    for each in (present, before):
        values, _rest, _order = command.make_parser(context).parse_args([each, "that"])
        assert values[option.name or ""] == "that"
    assert re.search(rf"{present}\b", command.get_help(context))
    assert not re.search(rf"(?<!sign){before}\b", command.get_help(context))


def test_no_option_has_two_long_names() -> None:
    for name, command in LEAVES.items():
        for option in options(command):
            assert sum(each.startswith("--") for each in option.opts) == 1, f"{name} {option.opts}"


def test_the_table_of_options_holds_no_name_that_is_gone() -> None:
    present = {name for command in LEAVES.values() for name in _names(command)}
    assert set(VALUES) <= present
    for command, option in OTHERWISE:
        assert option in _names(LEAVES[command]), f"{command} {option}"


@pytest.mark.parametrize("name", LEAVES, ids=str)
def test_every_value_has_a_name_that_says_what_it_is(name: str) -> None:
    context = click.Context(LEAVES[name], info_name=name)
    for parameter in LEAVES[name].params:
        metavar = parameter.make_metavar(context)
        assert "RANGE" not in metavar, f"{parameter.name}: say SECONDS, N …"
        assert not (
            isinstance(parameter, click.Option) and metavar == "TEXT" and "--why" not in parameter.opts
        )


def test_every_command_about_a_cluster_takes_its_file_in_the_same_way() -> None:
    without = {name for name, command in LEAVES.items() if "--cluster" not in _names(command)}
    assert without == NO_CLUSTER


GROUPED: Final = [name for name, command in groups(bramble) if name]


@pytest.mark.parametrize("name", GROUPED, ids=str)
def test_the_help_of_a_group_has_the_whole_line_of_every_command(name: str) -> None:
    group = dict(groups(bramble))[name]
    assert isinstance(group, HelpfulGroup)
    context = click.Context(group, info_name=name, terminal_width=80, max_content_width=80)
    shown = group.get_help(context)
    assert "..." not in shown.partition("Commands:")[2]
    assert max(map(len, shown.splitlines())) <= 80
    text = " ".join(shown.split())
    for child in group.list_commands(context):
        command = group.get_command(context, child)
        assert command is not None
        paragraph = (command.help or "").strip().partition("\n\n")[0]
        first = " ".join(paragraph.split()).partition(". ")[0].rstrip(".")
        assert f"{child} {first}" in text


@pytest.mark.parametrize("name", GROUPED, ids=str)
def test_a_group_answers_a_mistyped_command_with_the_nearest(name: str) -> None:
    group = dict(groups(bramble))[name]
    known = group.list_commands(click.Context(group))[0]
    result = CliRunner().invoke(bramble, [*name.split(), f"{known}x"])
    assert result.exit_code == 2
    assert f"Did you mean {known!r}?" in result.output


@pytest.mark.parametrize("name", LEAVES, ids=str)
def test_nodes_are_completed_wherever_one_is_named(name: str) -> None:
    for parameter in LEAVES[name].params:
        is_node = "NODE" in (parameter.metavar or "").replace("[", " ").split() or {
            "--node",
            "--prove-node",
        } & set(parameter.opts)
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
    assert complete(["restore", "a.bramble", "-c", file, "--revoke"], "c") == ["cm5-agent"]
    assert complete(["show", "-c", file], "pi") == ["pi5-server", "pi4-agent"]
    assert complete(["agent", "update", "-c", file, "pi4-agent"], "p") == ["pi5-server"]


def test_an_image_is_not_read_as_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text((EXAMPLES / "demo.yaml").read_text())
    (tmp_path / "disk.img").write_text("nodes: [")
    assert complete(["image", "check", "disk.img", "--node"], "cm") == ["cm5-agent"]


def test_flash_is_offered_a_node_and_then_a_disk_that_may_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Disk(
        name="sdx",
        size_bytes=32 * 10**9,
        model="Card",
        serial="",
        transport="usb",
        removable=True,
        read_only=False,
        uses=(),
    )
    system = replace(card, name="sdy", uses=(Use("mounted on /", is_system=True),))
    monkeypatch.setattr(Inventory, "disks", lambda _self: [system, card])
    file = str(EXAMPLES / "demo.yaml")
    assert complete(["flash", "-c", file], "pi") == ["pi5-server", "pi4-agent"]
    assert complete(["flash", "-c", file, "pi5-server"], "/d") == ["/dev/sdx"]
    assert complete(["flash", "-c", file, "pi5-server", "/dev/sdx"], "pi") == ["pi4-agent"]
    assert complete(["flash", "--image", file], "/d") == ["/dev/sdx"]


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


@pytest.mark.parametrize("name", ["\udcff", "pi\x1b[2J", "a\nb"], ids=ascii)
def test_a_name_that_cannot_be_shown_is_wrong_usage(name: str) -> None:
    result = CliRunner().invoke(bramble, ["reimage", name])
    assert result.exit_code == 2
    assert f"{name!a} is no name of a node or a board." in result.output


def test_an_unknown_option_is_answered_with_the_nearest() -> None:
    result = CliRunner().invoke(bramble, ["nodes", "--jsn"])
    assert result.exit_code == 2
    assert "--json" in result.output


def test_exit_codes_stand_in_the_help() -> None:
    shown = CliRunner().invoke(bramble, ["--help"]).output
    for line in EXIT_CODES.splitlines()[1:]:
        assert line.strip() in shown


def test_a_file_that_is_named_twice_is_refused() -> None:
    for words in (["nodes", "a.yaml", "-c", "b.yaml"], ["check", "-c", "b.yaml", "a.yaml"]):
        result = CliRunner().invoke(bramble, words)
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
