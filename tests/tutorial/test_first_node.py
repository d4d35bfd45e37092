"""The tutorial of the first node, followed in the lab with the very lines that the page shows.

Too long for every test run (`make test-tutorial`): what it goes through is covered there by tests/e2e, and
the lines themselves by tests/integration/docs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from docs_pages import ROOT, Block, Page

from bramble.demo import ensure_base
from bramble.demo_screen import PlainScreen
from bramble.paths import MIRROR_VARIABLE, store

pytestmark = pytest.mark.e2e

PAGE: Final = "docs/tutorials/first-node.md"
MARK: Final = re.compile(r"<!-- (?P<verb>file|run|wait)(?:: (?P<words>[^>]*))? -->")
WAIT_S: Final = 900.0
POLL_S: Final = 1.0
STOP_S: Final = 60.0


MAY_FAIL: Final = {
    "bramble status": " || [ $? = 1 ]",  # something needs a person, as the page says
    "kill %2; wait %2": " || [ $? = 130 ]",  # what the board that lost its power ends with
}
"""Lines whose exit code need not be 0, with what the shell says to that."""


class Shell:
    """A shell in the lab's network, in a directory of its own; every line that is typed has an end."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.log = work / "shell.log"
        environment = {**os.environ, "BRAMBLE_STATE_DIR": str(work / "state")}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["bramble", "lab", "shell", "--", "bash"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=work,
                env=environment,
                start_new_session=True,
            )

    def type(self, line: str) -> str:
        """Type a line and wait until the prompt would be back; its output. A line that fails is an error."""
        done = self.work / "done"
        begun = self.log.stat().st_size
        self._write(f"{line}\necho $? > {done}.new; mv {done}.new {done}\n")
        deadline = time.monotonic() + WAIT_S
        while not done.exists():
            assert self._process.poll() is None, f"the shell ended: {self.log.read_text('utf-8', 'replace')}"
            assert time.monotonic() < deadline, f"'{line}' does not end"
            time.sleep(POLL_S / 10)
        code = int(done.read_text())
        done.unlink()
        output = self.log.read_bytes()[begun:].decode("utf-8", "replace")
        assert code == 0, f"'{line}' ended with {code}: {output}"
        return output

    def close(self) -> None:
        """Leave the shell, with what runs in its background."""
        self._write("kill $(jobs -p); wait; exit\n")
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _write(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def wait_for_state(self, name: str, state: str) -> None:
        """Until `bramble nodes` says so."""
        self.wait_for(lambda row: row["name"] == name and row["state"] == state)

    def wait_for(self, is_so: Callable[[dict[str, Any]], bool]) -> None:
        """Until something is true of a row of `bramble nodes`."""
        deadline = time.monotonic() + WAIT_S
        while not any(map(is_so, self.rows())):
            assert time.monotonic() < deadline, self.type("bramble nodes")
            time.sleep(POLL_S)

    def rows(self) -> list[dict[str, Any]]:
        """`bramble nodes --json`; nothing while the server is not up yet."""
        text = self.type("bramble nodes --json 2> /dev/null || true")
        rows: list[dict[str, Any]] = json.loads(text)["nodes"] if text.startswith("{") else []
        return rows


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A reader's shell; the base is made before where the store does not have it."""
    ensure_base(store(), PlainScreen(), mirror=os.environ.get(MIRROR_VARIABLE))
    opened = Shell(tmp_path)
    yield opened
    opened.close()


def lines_of(block: Block) -> list[str]:
    """What is typed of a block: the lines with a prompt, without their comments."""
    typed = (line.removeprefix("$ ") for line in block.text.splitlines() if line.startswith("$ "))
    return [re.sub(r" +# .*", "", line) for line in typed]


def steps(page: Page) -> Iterator[tuple[str, str, Block]]:
    """(what the mark before a block says, its words, the block), in the order of the page."""
    for span in page.prose:
        match = MARK.fullmatch(span.text.strip())
        if match:
            yield match["verb"], match["words"] or "", next(b for b in page.blocks if b.line == span.line + 2)


def test_the_tutorial_leads_from_a_blank_disk_to_ready_and_back_after_a_power_cut(shell: Shell) -> None:
    verbs, boots = [], 0
    for verb, words, block in steps(Page.load(ROOT / PAGE)):
        verbs.append(verb)
        if verb == "file":
            (shell.work / words).write_text(block.text + "\n")
            continue
        if verb == "wait":
            shell.wait_for_state(*words.split())
            (boots,) = (row["boots"] for row in shell.rows())
        for line in lines_of(block):
            output = shell.type(line + MAY_FAIL.get(line, ""))
            if line.startswith("grep fingerprint"):
                approve(shell, output)
    assert verbs == ["file", "run", "run", "run", "run", "wait", "run", "wait", "run"]
    shell.wait_for(lambda row: row["boots"] > boots and row["state"] == "ready")
    timeline = shell.type("bramble show attic-1")
    assert timeline.count("installed and verified") == 1
    assert "(simulator)" in timeline


def approve(shell: Shell, console: str) -> None:
    """Compare, as the page asks, and say yes."""
    found = re.search(r"fingerprint ((?:[0-9a-f]{4}-){4}[0-9a-f]{4})", console)
    assert found, console
    shown = shell.type("bramble nodes")
    assert found[1] in shown
    shell.type(f"bramble approve attic-1 --key {found[1]}")
