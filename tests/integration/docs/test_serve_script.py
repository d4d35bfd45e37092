"""`scripts/serve`, with which the README begins: who runs the server, and with which rights."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from docs_pages import ROOT

pytestmark = pytest.mark.integration

SUDO = '#!/bin/sh\nprintf "%s\\n" "$@"\n'
SOMEBODY = '#!/bin/sh\ncase "$1" in -u) echo 1000;; -un) echo ana;; -gn) echo people;; esac\n'
ROOT_USER = "#!/bin/sh\necho 0\n"
BRAMBLE = '#!/bin/sh\nprintf "%s\\n" bramble "$@"\n'


def run(folder: Path, identity: str) -> list[str]:
    """The lines that the script ends in: what sudo is asked for, or the server itself."""
    tools, checkout = folder / "tools", folder / "checkout"
    for path, text in (
        (tools / "sudo", SUDO),
        (tools / "id", identity),
        (checkout / ".venv/bin/bramble", BRAMBLE),
        (checkout / "scripts/serve", (ROOT / "scripts/serve").read_text("utf-8")),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": "/home/ana"}
    argv = [str(checkout / "scripts/serve"), "attic.yaml", "--proven-only"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_person_gets_two_capabilities_and_stays_who_he_is(tmp_path: Path) -> None:
    asked = run(tmp_path, SOMEBODY)
    assert asked[:2] == ["--preserve-env", "setpriv"]
    capabilities = "+net_bind_service,+net_raw"
    for option, value in (
        ("--reuid", "ana"),
        ("--regid", "people"),
        ("--inh-caps", capabilities),
        ("--ambient-caps", capabilities),
    ):
        assert asked[asked.index(option) + 1] == value
    assert "HOME=/home/ana" in asked
    assert asked[-4:] == [f"{tmp_path}/checkout/.venv/bin/bramble", "serve", "attic.yaml", "--proven-only"]


def test_root_needs_no_sudo(tmp_path: Path) -> None:
    assert run(tmp_path, ROOT_USER) == ["bramble", "serve", "attic.yaml", "--proven-only"]
