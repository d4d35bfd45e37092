"""docs/faults.md names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[2]
TABLE = (TESTS.parent / "docs" / "faults.md").read_text("utf-8")


def test_every_named_test_exists() -> None:
    named = re.findall(r"`(test_\w+\.py)::(\w+)`", TABLE)
    assert named
    rows = [line for line in TABLE.splitlines() if line.startswith("| ")][1:]
    assert [row for row in rows if "::" not in row] == []
    files = {path.name: path.read_text("utf-8") for path in TESTS.rglob("test_*.py")}
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not re.search(rf"^\s*(?:(?:async )?def {name}\(|{name} = )", files.get(file, ""), re.MULTILINE)
    ]
    assert missing == []
