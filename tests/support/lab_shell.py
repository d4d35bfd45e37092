"""A reader's shell in the lab's network: what is typed there runs for real, and every line has an end."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

WAIT_S: Final = 900.0
POLL_S: Final = 1.0
STOP_S: Final = 60.0


class Shell:
    """`bramble lab shell -- bash` in a directory of its own, with a state directory of its own.

    Args:
        work: Where the reader is; `shell.log` grows there.
    """

    def __init__(self, work: Path) -> None:
        self.work = work
        self.log = work / "shell.log"
        environment = {**os.environ, "BRAMBLE_STATE_DIR": str(work / "state"), "COLUMNS": "140"}
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

    def type(self, line: str, *, answer: str | None = None, codes: tuple[int, ...] = (0,)) -> str:
        """Type a line and wait until the prompt would be back; its output.

        Args:
            answer: What is typed when the line asks. It runs on a terminal of its own then, because nobody is
                asked elsewhere.
            codes: What it may end with; anything else is an error.
        """
        if answer is not None:
            line = f"printf '%s\\n' {shlex.quote(answer)} | script -qec {shlex.quote(line)} /dev/null"
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
        assert code in codes, f"'{line}' ended with {code}: {output}"
        return output

    def close(self) -> None:
        """Leave the shell, with what runs in its background."""
        try:
            self._write("kill $(jobs -p); wait; exit\n")
            self._process.wait(STOP_S)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _write(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    # --- what `bramble nodes` says

    def wait_for_state(self, name: str, state: str) -> dict[str, Any]:
        """The node's row, when `bramble nodes` says that it is in this state."""
        return self.wait_for(name, lambda row: row["state"] == state, state)

    def wait_for(self, name: str, is_so: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """The node's row of `bramble nodes`, when something is true of it."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = [row for row in self.rows() if row["name"] == name and is_so(row)]
            return bool(found)

        self.wait_until(look, f"{name}: {what}")
        return found[0]

    def wait_until(self, is_so: Callable[[], bool], what: str) -> None:
        """Until something is so."""
        deadline = time.monotonic() + WAIT_S
        while not is_so():
            assert time.monotonic() < deadline, f"waited in vain for {what}: {self.type('bramble nodes')}"
            time.sleep(POLL_S)

    def rows(self) -> list[dict[str, Any]]:
        """`bramble nodes --json`; nothing while the server is not up yet."""
        text = self.type("bramble nodes --json 2> /dev/null || true")
        rows: list[dict[str, Any]] = json.loads(text)["nodes"] if text.startswith("{") else []
        return rows
