"""A board's serial console: kept in a file, remembered at its end, and waited on by other threads."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import BinaryIO, Final

REMEMBERED_CHARS: Final = 128 * 1024
_ESCAPE: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_a-z])|[\r\x07]"
)
"""ECMA-48 control sequences, operating system commands, single escapes; and what a log has no use for."""
_UNFINISHED_ESCAPE: Final = re.compile(r"\x1b(?:\[[^\x1b]{0,32}|\][^\x07]{0,128})?\Z")


class Console:
    """Text of the serial line since the board was made; written by the board's thread, read by any."""

    def __init__(self, log: Path) -> None:
        self._log: BinaryIO = log.open("ab", buffering=0)
        self._text = ""
        self._pending = ""
        self._dropped = 0
        self._changed = threading.Condition()
        self._closed = False

    def write(self, data: bytes) -> None:
        """Take what the machine sent. Terminal escapes go to the file only."""
        self._log.write(data)
        text = _ESCAPE.sub("", self._pending + data.decode("utf-8", "replace"))
        cut = _UNFINISHED_ESCAPE.search(text)
        self._pending = cut.group() if cut else ""
        with self._changed:
            self._text += text.removesuffix(self._pending)
            excess = len(self._text) - REMEMBERED_CHARS
            if excess > 0:
                self._text = self._text[excess:]
                self._dropped += excess
            self._changed.notify_all()

    @property
    def position(self) -> int:
        """Characters received so far: a mark for `wait_for`."""
        with self._changed:
            return self._dropped + len(self._text)

    def tail(self, lines: int = 30) -> str:
        """The last lines."""
        with self._changed:
            return "\n".join(self._text.splitlines()[-lines:])

    def wait_for(self, pattern: str, timeout_s: float, *, since: int = 0) -> re.Match[str] | None:
        """Wait until a regular expression matches what came after `since`; None when time is over."""
        deadline = time.monotonic() + timeout_s
        wanted = re.compile(pattern, re.MULTILINE)
        with self._changed:
            while True:
                found = wanted.search(self._text, max(0, since - self._dropped))
                left = deadline - time.monotonic()
                if found or left <= 0 or self._closed:
                    return found
                self._changed.wait(left)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._log.close()
