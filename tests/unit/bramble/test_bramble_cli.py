"""The command tree, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import fakes_bramble
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from fakes_bramble import ending_in

from agent.errors import AgentError
from bramble.cli import COMMANDS, bramble, main
from bramble.command_groups import GROUPS
from fleet.errors import FleetError, InputError
from fleet.spec import Problem, SpecErrors
from imagebuilder.errors import ImageBuilderError, MissingTool
from lab.errors import LabError, UsageError
from pxe.errors import PxeError

PROBLEM = Problem(file=Path("cluster.yaml"), line=3, key="version", message="it is missing", hint="Write it")


def run_main(
    monkeypatch: pytest.MonkeyPatch, outcome: BaseException | int | None, *arguments: str
) -> int | str | None:
    """Run `bramble end`, which ends so; the exit code."""
    monkeypatch.setattr(fakes_bramble, "end", ending_in(outcome), raising=False)
    monkeypatch.setitem(COMMANDS, "end", "fakes_bramble:end")
    monkeypatch.setattr("sys.argv", ["bramble", *(arguments or ("end",))])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command of the tree with its full name."""
    yield " ".join(("bramble", *path)), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None, name
            yield from commands(child, (*path, name))


TREE = dict(commands(bramble))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        pytest.param(FleetError("it broke", "Mend it"), 1, id="fleet"),
        pytest.param(InputError("it broke", "Mend it"), 2, id="fleet input"),
        pytest.param(ImageBuilderError("it broke", "Mend it"), 1, id="imagebuilder"),
        pytest.param(PxeError("it broke", "Mend it"), 1, id="pxe"),
        pytest.param(LabError("it broke", "Mend it"), 1, id="lab"),
        pytest.param(UsageError("it broke", "Mend it"), 2, id="lab usage"),
        pytest.param(AgentError("it broke", "Mend it"), 1, id="agent"),
    ],
)
def test_errors_of_every_room_say_what_happened_and_what_to_do(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, error) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: it broke\n  Mend it\n"


def test_a_faulty_cluster_file_is_invalid_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, SpecErrors([PROBLEM])) == 2
    err = capsys.readouterr().err
    assert "cluster.yaml:3: version: it is missing. Write it" in err
    assert "  Mend them and run 'bramble check cluster.yaml'." in err


def test_every_line_of_a_hint_is_indented(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_main(monkeypatch, PxeError("port 69 is taken", "Stop the other.\nOr wait."))
    assert capsys.readouterr().err.splitlines()[1:] == ["  Stop the other.", "  Or wait."]


def test_a_missing_tool_names_its_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, MissingTool({"mcopy": "mtools"})) == 1
    assert "  Install with: apt install mtools\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [pytest.param(KeyboardInterrupt(), id="^C"), pytest.param(click.Abort(), id="at a question")]
)
def test_an_interrupt_ends_with_130(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, error) == 130
    assert capsys.readouterr().err.strip() == "interrupted"


def test_a_package_that_came_with_an_upgrade_and_is_not_installed_is_named_with_its_mend(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, ModuleNotFoundError("No module named 'msgspec'", name="msgspec")) == 1
    said = capsys.readouterr().err
    assert "'msgspec' is not installed" in said
    assert "make setup" in said


def test_what_may_be_chosen_stands_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bramble", "completion"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "error: Missing argument 'SHELL'. Choose from: bash, zsh, fish"


def test_a_fault_of_the_program_shows_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes_bramble, "end", ending_in(ZeroDivisionError("ours")), raising=False)
    monkeypatch.setitem(COMMANDS, "end", "fakes_bramble:end")
    monkeypatch.setattr("sys.argv", ["bramble", "end"])
    with pytest.raises(ZeroDivisionError):
        main()


@pytest.mark.parametrize(
    ("outcome", "code"), [pytest.param(None, 0, id="done"), pytest.param(3, 3, id="own code")]
)
def test_what_a_command_gives_back_is_the_exit_code(
    outcome: int | None, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_main(monkeypatch, outcome) == code


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("no-such-command",), id="unknown command"),
        pytest.param(("--no-such-option", "end"), id="unknown option"),
        pytest.param(("end", "too-much"), id="argument too many"),
    ],
)
def test_wrong_usage_ends_with_2(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, None, *arguments) == 2
    first, *more = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ")
    assert more[0].startswith("  Usage: bramble ")
    assert more[-1].endswith(" --help' says more.")


def test_the_help_lists_every_command_once_by_what_it_is_for_and_cuts_no_line() -> None:
    shown = CliRunner().invoke(bramble, ["--help"]).output
    named = [name for lines in GROUPS.values() for name in lines]
    assert sorted(named) == sorted(COMMANDS)
    for heading, lines in GROUPS.items():
        rows = shown.partition(f"\n{heading}:\n")[2].partition("\n\n")[0].splitlines()
        assert [tuple(row.split(maxsplit=1)) for row in rows] == list(lines.items())
        assert max(map(len, rows)) <= 80


@pytest.mark.parametrize("words", ["--help", "complete"])
def test_help_and_completion_import_no_command(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a Pi that would take seconds, at each press of the tab key."""
    for name in COMMANDS:
        monkeypatch.setitem(COMMANDS, name, "no_such_module:at_all")
    if words == "--help":
        assert CliRunner().invoke(bramble, ["--help"]).exit_code == 0
    else:
        completion = ShellComplete(bramble, {}, "bramble", "_BRAMBLE_COMPLETE")
        assert {one.value for one in completion.get_completions([], "")} == set(COMMANDS)


@pytest.mark.parametrize("name", TREE, ids=str)
def test_every_command_says_what_it_does(name: str) -> None:
    result = CliRunner().invoke(bramble, [*name.split()[1:], "--help"])
    assert result.exit_code == 0
    summary = TREE[name].get_short_help_str(limit=200)
    assert summary
    assert summary[0].isupper()


@pytest.mark.parametrize("name", TREE, ids=str)
def test_every_option_says_what_it_does(name: str) -> None:
    silent = [
        parameter.name
        for parameter in TREE[name].params
        if isinstance(parameter, click.Option) and not parameter.hidden and not parameter.help
    ]
    assert silent == []
