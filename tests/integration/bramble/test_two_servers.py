"""Two whole servers of one cluster on one PostgreSQL: what one changes, the other acts on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from postgres_server import find_programs, running_postgres

pytestmark = pytest.mark.integration

SUPPORT = Path(__file__).parents[2] / "support"
CHECKOUT = Path(__file__).parents[3]
DATA, ERROR = 3, 5


def test_an_intent_that_one_server_closes_is_closed_for_the_boards_of_the_other(
    tmp_path: Path,
) -> None:
    programs = find_programs()
    if programs is None:
        pytest.skip("there is no PostgreSQL server: package postgresql")
    for tool in ("unshare", "ip"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (util-linux, iproute2)")
    with running_postgres(programs) as postgres:
        postgres.directory.chmod(
            0o711
        )  # as root the database is another user's, and in the namespace nobody is root
        done = subprocess.run(
            [
                *("unshare", "--user", "--map-root-user", "--net", "--mount", sys.executable),
                *(str(SUPPORT / "two_servers_in_namespace.py"), str(tmp_path), postgres.new_database().url),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "PYTHONPATH": f"{CHECKOUT}:{SUPPORT}"},
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"before": DATA, "after": ERROR}, done.stderr
