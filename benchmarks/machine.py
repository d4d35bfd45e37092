"""The machine under the measurements, and the versions of the programs that take part."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from benchmarks.programs import Program

VERSION_TIMEOUT_S: Final = 10
_CPU_NAME: Final = re.compile(r"^(?:model name|Model)\s*:\s*(.+)$", re.MULTILINE)
_VERSION: Final = re.compile(r"\d+\.\d+[\w.+-]*")


def describe_machine() -> str:
    """CPU model, cores that this process may use, memory."""
    found = _CPU_NAME.search(Path("/proc/cpuinfo").read_text("utf-8"))
    cpu = found.group(1).strip() if found else platform.machine()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{cpu}, {len(os.sched_getaffinity(0))} cores, {memory / 2**30:.0f} GiB"


def describe_kernel() -> str:
    """Name and release of the kernel."""
    return f"{platform.system()} {platform.release()}"


def describe_load() -> str:
    """The load averages of the last 1, 5 and 15 minutes."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def own_versions() -> dict[str, str]:
    """Bramble and Python."""
    return {"bramble": importlib.metadata.version("bramble"), "Python": platform.python_version()}


def program_versions(programs: Iterable[Program]) -> dict[str, str]:
    """What the programs say about themselves; one that says nothing is left out."""
    versions = {}
    for program in programs:
        result = subprocess.run(
            [program.path, program.version_option],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=program.environment,
            timeout=VERSION_TIMEOUT_S,
            check=False,
            text=True,
        )
        if found := _VERSION.search(result.stdout):
            versions[program.name] = found.group()
    return versions
