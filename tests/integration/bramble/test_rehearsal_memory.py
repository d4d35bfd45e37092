"""Whose memory counts as the server's in a rehearsal."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bramble.rehearsal import process_tree

pytestmark = pytest.mark.integration

PARENT = """
import os, subprocess, sys, time
forked = os.fork()
if not forked:
    time.sleep(600)
program = subprocess.Popen(["sleep", "600"])
print(forked, program.pid, flush=True)
sys.stdin.readline()
os.kill(forked, 9)
program.kill()
"""


def test_a_child_without_a_program_of_its_own_is_its_parent() -> None:
    argv = [sys.executable, "-c", PARENT]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        forked, program = (int(word) for word in parent.stdout.readline().split())
        try:
            found = process_tree(parent.pid)
        finally:
            parent.stdin.write("\n")
            parent.stdin.close()
            parent.wait(60)
    assert set(found) == {parent.pid, program}
    assert forked not in found
