"""The package's error tree: every error says what happened, and in ``hint`` what to do next."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

STDERR_LINES_SHOWN: Final = 20


class ImageBuilderError(Exception):
    """Root of all errors that this package raises on purpose.

    Args:
        message: what happened and what was expected, one or more lines.
        hint: what to do next; a sentence for a person.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class MissingTool(ImageBuilderError):
    """Programs that are not installed, all of them at once.

    Args:
        tools: program name → the Debian package that holds it; at least one.
    """

    def __init__(self, tools: Mapping[str, str]) -> None:
        self.tools = dict(tools)
        names = ", ".join(repr(name) for name in self.tools)
        packages = " ".join(sorted(set(self.tools.values())))
        are = "is" if len(self.tools) == 1 else "are"
        super().__init__(
            f"{names} {are} not installed (PATH, /usr/sbin and /sbin were searched)",
            f"Install with: apt install {packages}",
        )


class CommandFailed(ImageBuilderError):
    """A command ended with another exit code than 0, or did not end in time.

    Args:
        argv: the command as it ran.
        returncode: exit code; minus the signal number when a signal ended it; None after a timeout.
        output: what the command wrote on stderr (or on both streams, merged); the last 20 lines are shown.
        timeout_s: the limit that passed, when ``returncode`` is None.
    """

    def __init__(
        self,
        argv: Sequence[str],
        returncode: int | None,
        output: str,
        *,
        timeout_s: float | None = None,
        hint: str = "",
    ) -> None:
        self.argv = tuple(argv)
        self.returncode = returncode
        self.last_lines = tuple(output.splitlines()[-STDERR_LINES_SHOWN:])
        if returncode is None:
            ending = (
                f"did not end within {timeout_s:g} s and was killed"
                if timeout_s is not None
                else "was killed"
            )
        elif returncode < 0:
            ending = f"was ended by {_signal_name(-returncode)}"
        else:
            ending = f"ended with exit code {returncode}"
        lines = [f"command {ending}: {shlex.join(self.argv)}", *(f"  | {line}" for line in self.last_lines)]
        super().__init__("\n".join(lines), hint or _hint(returncode, bool(self.last_lines)))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _hint(returncode: int | None, has_words: bool) -> str:
    """What to do about a command that failed."""
    if returncode == -signal.SIGKILL:
        return "The kernel ends programs so when memory runs out (dmesg says which). Then try again."
    if returncode == -signal.SIGXFSZ:
        return "A file grew beyond what this session may write: raise 'ulimit -f'."
    if has_words:
        return "The command's own last words above say what it lacked."
    return "It said nothing of why; dmesg may know more. Try again, and if it stays so, report it."


class NoSpace(ImageBuilderError):
    """A filesystem has less room than what is about to be written.

    Args:
        path: a path on that filesystem.
        needed_bytes: what the work needs.
        available_bytes: what an ordinary user can still write there.
    """

    def __init__(self, path: Path, needed_bytes: int, available_bytes: int) -> None:
        self.path = path
        self.needed_bytes = needed_bytes
        self.available_bytes = available_bytes
        super().__init__(
            f"{path}: {available_bytes / 2**20:.0f} MiB are free, {needed_bytes / 2**20:.0f} MiB are needed",
            "Free some room there (bramble gc), or put the cache on another disk with BRAMBLE_CACHE_DIR.",
        )


class NotUnderstood(ImageBuilderError):
    """Data that is not what it should be: the message names what was found and what was expected."""


class DiskFull(ImageBuilderError):
    """A disk, or the user's quota on it, was full before all was written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"{path}: could not be written: the disk (or your quota on it) is full",
            "Free some room there (bramble gc), or put the cache on another disk with BRAMBLE_CACHE_DIR.",
        )


class StoreError(ImageBuilderError):
    """The store cannot be read or written, or holds something that it should not hold."""
