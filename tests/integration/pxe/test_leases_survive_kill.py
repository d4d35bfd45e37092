"""kill -9 at any moment: a lease that its client was told is there after the restart."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from lease_writer import lease

from pxe.net.lease_store import LeaseStore

pytestmark = pytest.mark.integration

SUPPORT = Path(__file__).parents[2] / "support"
CHECKOUT = Path(__file__).parents[3]
KILLS = 15


def test_every_lease_that_was_told_survives_every_kill(tmp_path: Path) -> None:
    path = tmp_path / "leases.jsonl"
    chance = random.Random(7)
    told: list[int] = []
    for _ in range(KILLS):
        wanted = chance.randrange(1, 60)
        start = told[-1] + 100 if told else 0
        process = subprocess.Popen(
            [sys.executable, SUPPORT / "lease_writer.py", path, str(start)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{CHECKOUT}:{SUPPORT}"},
        )
        assert process.stdout is not None
        with process.stdout:
            for _number in range(wanted):
                told.append(int(process.stdout.readline()))
            process.kill()  # between any two instructions of what follows the last line
            told += [int(line) for line in process.stdout.read().splitlines(keepends=True) if "\n" in line]
        process.wait()
        with LeaseStore(path) as store:
            assert {lease(number) for number in told} <= set(store.leases)
            assert store.corrupt_lines <= 1
