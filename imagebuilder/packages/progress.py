"""How far the installation of packages is, read from what apt and dpkg print. Pure: lines in, values out."""

from __future__ import annotations

import re
from typing import Final

_MARK: Final = "bramble: "
# Phase → (what is said, the share of the whole at which it begins); from a run of 12 packages on two cores.
_PHASES: Final = {
    "extract": ("unpacking the base", 0.0),
    "update": ("reading the archives", 0.10),
    "install": ("installing packages", 0.45),
    "capture": ("collecting what changed", 0.93),
    "complete": ("packages installed", 1.0),
}
_COUNT: Final = re.compile(r"(?:.*?)(\d+) (?:newly installed|to newly install)")
_ITEM: Final = re.compile(r"(?:Unpacking|Setting up) \S+")
_PER_PACKAGE: Final = 2


class InstallProgress:
    """Turns output lines into (what is being done, share of the whole); one instance per run."""

    def __init__(self, packages: int) -> None:
        self._expected = packages * _PER_PACKAGE
        self._done = 0
        self._share = 0.0

    def read(self, line: str) -> tuple[str, float] | None:
        """What ``line`` says about the progress; None when it says nothing."""
        if line.startswith(_MARK):
            phase = _PHASES.get(line.removeprefix(_MARK).strip())
            if phase is None:
                return None
            self._share = phase[1]
            return phase
        if counted := _COUNT.match(line):
            self._expected = max(1, int(counted[1])) * _PER_PACKAGE
        if not _ITEM.match(line):
            return None
        self._done += 1
        text, start = _PHASES["install"]
        width = _PHASES["capture"][1] - start
        self._share = max(self._share, start + width * min(1.0, self._done / self._expected))
        return text, self._share
