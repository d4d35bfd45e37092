from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from imagebuilder.store import Store

pytestmark = pytest.mark.integration

# Builds entry "one" of kind "images" in the store argv[1]: writes argv[2], says so, and waits for a line.
BUILDER = """
import sys
from pathlib import Path
from imagebuilder.store import Store

def build(into):
    (into / "file").write_text(sys.argv[2])
    print("building", flush=True)
    sys.stdin.readline()

print(Store(Path(sys.argv[1])).get_or_create("images", "one", build), flush=True)
"""


def _start(root: Path, text: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(root), text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_kill_9_leaves_nothing_that_looks_finished_and_the_next_builder_starts_clean(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with _start(tmp_path, "half") as killed:
        assert _line(killed) == "building\n"
        killed.send_signal(signal.SIGKILL)
        killed.wait(60)
    assert store.find("images", "one") is None
    assert store.entries("images") == []
    assert list((tmp_path / "tmp").iterdir()) != []  # what it left, under a name that nobody reads

    with _start(tmp_path, "whole") as second:
        assert _line(second) == "building\n"  # the kernel dropped the dead one's lock
        out, _ = second.communicate("\n", timeout=60)
    assert out == f"{tmp_path}/images/one\n"
    assert (tmp_path / "images/one/file").read_text() == "whole"
    assert list((tmp_path / "tmp").iterdir()) == []


def test_of_two_processes_one_builds_and_both_get_it(tmp_path: Path) -> None:
    with _start(tmp_path, "first") as first:
        assert _line(first) == "building\n"
        with _start(tmp_path, "second") as second:
            first.communicate("\n", timeout=60)
            # The second one never says "building": its first line is the entry.
            assert _line(second) == f"{tmp_path}/images/one\n"
            second.communicate("\n", timeout=60)
    assert (tmp_path / "images/one/file").read_text() == "first"


def test_waiting_process_takes_over_when_the_builder_is_killed(tmp_path: Path) -> None:
    with _start(tmp_path, "first") as first:
        assert _line(first) == "building\n"
        with _start(tmp_path, "second") as second:
            first.send_signal(signal.SIGKILL)
            first.wait(60)
            assert _line(second) == "building\n"
            out, _ = second.communicate("\n", timeout=60)
    assert out == f"{tmp_path}/images/one\n"
    assert (tmp_path / "images/one/file").read_text() == "second"
