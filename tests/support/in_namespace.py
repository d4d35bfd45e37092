"""Programs of this folder, each as root of a network namespace of its own; that takes no privilege."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

SUPPORT: Final = Path(__file__).parent
UNSHARE: Final = ("unshare", "--user", "--map-root-user", "--net", "--mount")
ENVIRONMENT: Final = {"PYTHONPATH": f"{SUPPORT.parents[1]}:{SUPPORT}"}
_PATH: Final = f"{os.environ['PATH']}:/usr/sbin:/sbin"


def need(*tools: str) -> None:
    """Skip the test where one of these is missing."""
    for tool in tools:
        if shutil.which(tool, path=_PATH) is None:
            pytest.skip(f"{tool} is not installed: run 'make setup-tests'")


def command(script: str, *arguments: object) -> list[str]:
    """The words that run a program of this folder in a namespace."""
    return [*UNSHARE, sys.executable, str(SUPPORT / script), *map(str, arguments)]


def told_by(script: str, *arguments: object, timeout_s: float = 300.0) -> Any:
    """What a program of this folder printed as JSON before it ended well."""
    need("unshare", "ip")
    done = subprocess.run(
        command(script, *arguments),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, **ENVIRONMENT},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
