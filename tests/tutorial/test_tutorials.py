"""The tutorials, followed in the lab one after the other with the very lines that the pages show.

Too long for every test run (`make test-tutorial`): what they go through is covered there by tests/e2e, and
the lines themselves by tests/integration/docs. The second and the third go on where the first ended.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from lab_shell import Shell
from tutorial_reader import Reader

from bramble.demo import ensure_base
from bramble.demo_screen import PlainScreen
from bramble.paths import MIRROR_VARIABLE, store

pytestmark = pytest.mark.e2e

FIRST, THREE, DEAD = (f"docs/tutorials/{name}.md" for name in ("first-node", "three-servers", "dead-board"))


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A reader's shell; the base is made before where the store does not have it."""
    ensure_base(store(), PlainScreen(), mirror=os.environ.get(MIRROR_VARIABLE))
    opened = Shell(tmp_path_factory.mktemp("reader"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def reader(shell: Shell) -> Reader:
    """Somebody who has been through the first tutorial, to its end: the node is back after the power cut."""
    reader = Reader(shell)
    verbs = reader.follow(FIRST)
    assert verbs == ["file", "run", "run", "run", "run", "wait", "run", "run", "wait", "run"]
    boots = reader.awaited["attic-1"]["boots"]
    shell.wait_for(
        "attic-1", lambda row: row["boots"] > boots and row["state"] == "ready", "ready after a power cut"
    )
    return reader


def test_the_first_leads_from_a_blank_disk_to_ready_and_back_after_a_power_cut(reader: Reader) -> None:
    timeline = reader.shell.type("bramble show attic-1")
    assert timeline.count("installed and verified") == 1
    assert "(simulator)" in timeline


def test_the_second_leads_to_three_servers_of_which_one_may_fail(reader: Reader) -> None:
    verbs = reader.follow(THREE)
    assert verbs == ["add", "run", "run", "wait", "wait", "run", "wait", "run", "wait"]
    (tried,) = reader.answers("bramble apply --dry-run")
    assert tried.count("it installs and joins when it is switched on") == 2
    all_well, one_lost = reader.answers("bramble status")[-2:]
    assert "3 of 3 Ready" in all_well
    assert "1 more may fail" in all_well
    assert "attic-3" in one_lost
    assert "no more may fail" in one_lost
    (timeline,) = reader.answers("bramble show attic-3")
    assert timeline.count("installed and verified") == 1


def test_the_third_gives_a_dead_boards_name_to_another(reader: Reader) -> None:
    verbs = reader.follow(DEAD)
    assert verbs == ["add", "run", "run", "wait", "run", "wait", "run", "run", "run", "wait", "put", "run"]
    (asked,) = reader.answers("bramble replace attic-4 --with 10000000d03114b5 --dry-run")
    assert "!" not in asked, "nothing stands against it"
    dead, replaced = reader.answers("bramble show attic-4")
    assert dead.count("installed and verified") == 1
    assert replaced.count("installed and verified") == 2
    assert "10000000d03114b5" in replaced
    assert reader.answers("bramble apply")[-1].endswith("applied\n")
    assert {row["state"] for row in reader.shell.rows()} == {"ready"}
