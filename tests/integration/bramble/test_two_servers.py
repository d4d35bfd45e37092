"""Two whole servers of one cluster on one PostgreSQL: what one changes, the other acts on."""

from __future__ import annotations

from pathlib import Path

import pytest
from in_namespace import told_by
from postgres_server import find_programs, running_postgres

pytestmark = pytest.mark.integration

DATA, ERROR = 3, 5
NEW_SERIAL = "10000000abcd00ff"


def test_what_one_server_closes_replaces_and_declares_is_so_for_the_other(
    tmp_path: Path,
) -> None:
    programs = find_programs()
    if programs is None:
        pytest.skip("there is no PostgreSQL server: package postgresql")
    with running_postgres(programs) as postgres:
        # As root the database is another user's, and in the namespace nobody is root.
        postgres.directory.chmod(0o711)
        told = told_by("two_servers_in_namespace.py", tmp_path, postgres.new_database().url)
    assert told == {"before": DATA, "after": ERROR, "two": NEW_SERIAL, "nodes": ["one", "two", "three"]}
