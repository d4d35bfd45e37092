"""What the boot server's processes load: they stand beside each other, so every megabyte counts."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

PROGRAM = """
import importlib, sys
importlib.import_module(sys.argv[1])
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def loaded_by(module: str) -> set[str]:
    argv = [sys.executable, "-c", PROGRAM, module]
    return set(subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout.split())


def test_the_server_does_not_load_what_reads_documents() -> None:
    loaded = loaded_by("pxe.server")
    assert "aiohttp" in loaded, "else this looks at the wrong thing"
    assert not loaded & {"pydantic", "yaml", "jinja2", "kubernetes"}


def test_a_tftp_worker_loads_no_package_but_its_own() -> None:
    loaded = loaded_by("pxe.tftp.process")
    assert {"pxe", "fleet"} <= loaded
    assert not loaded & {"aiohttp", "asyncio", "click", "pydantic", "yaml"}
