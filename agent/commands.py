"""The one place of the agent that starts processes: argv lists, deadlines, stderr kept."""

from __future__ import annotations

import os
import selectors
import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from agent.errors import AgentError

DEFAULT_TIMEOUT_S = 30.0
STDERR_LINES_SHOWN = 20
PIECE_BYTES = 64 * 1024


class CommandError(AgentError):
    """A command that is missing, took too long or ended with a status other than 0.

    `returncode` is the status that the program itself ended with. It is None when the program gave no
    verdict: it could not start, took too long, or a signal ended it. Then nothing follows about its input.
    """

    def __init__(
        self,
        argv: Sequence[str],
        reason: str,
        stderr: str = "",
        hint: str = "",
        *,
        returncode: int | None = None,
    ) -> None:
        tail = "\n".join(stderr.strip().splitlines()[-STDERR_LINES_SHOWN:])
        super().__init__(f"'{shlex.join(argv)}' {reason}" + (f":\n{tail}" if tail else ""), hint)
        self.argv = tuple(argv)
        self.stderr = stderr
        self.returncode = returncode


@dataclass(frozen=True, slots=True)
class Completed:
    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout.decode("utf-8", "replace")


class Runner(Protocol):
    """The seam for tests: `run` below, or a recorder that answers from a table."""

    def __call__(
        self, argv: Sequence[str], *, input_bytes: bytes = b"", timeout_s: float = ..., check: bool = True
    ) -> Completed: ...


def run(
    argv: Sequence[str],
    *,
    input_bytes: bytes = b"",
    timeout_s: float = DEFAULT_TIMEOUT_S,
    check: bool = True,
) -> Completed:
    """Run a command to its end.

    Raises:
        CommandError: not installed, no end within `timeout_s`, or (with `check`) ended by a signal or with a
            status other than 0.
    """
    try:
        done = subprocess.run(
            list(argv),
            input=input_bytes,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            env=_environment(),
        )
    except FileNotFoundError as exc:
        raise CommandError(
            argv,
            "could not start: the program is not installed",
            hint=f"The image lacks '{argv[0]}'; rebuild it.",
        ) from exc
    except (OSError, ValueError) as exc:  # ValueError: a NUL in an argument
        raise CommandError(argv, f"could not start: {exc}") from exc
    except subprocess.TimeoutExpired as exc:
        stderr = (exc.stderr or b"").decode("utf-8", "replace")
        raise CommandError(argv, f"did not end within {timeout_s:g} s", stderr) from exc
    completed = Completed(tuple(argv), done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))
    if check and completed.returncode < 0:
        raise CommandError(argv, f"was ended by signal {-completed.returncode}", completed.stderr)
    if check and completed.returncode > 0:
        raise CommandError(
            argv,
            f"ended with status {completed.returncode}",
            completed.stderr,
            returncode=completed.returncode,
        )
    return completed


@dataclass(frozen=True, slots=True)
class Bounded:
    """What a command wrote, as far as it was kept. `returncode` is negative where a signal ended it."""

    returncode: int
    stdout: bytes
    stderr: bytes
    dropped: int
    timed_out: bool


def run_bounded(argv: Sequence[str], *, timeout_s: float, limit_bytes: int) -> Bounded:
    """Run a command of which nothing is known: keep `limit_bytes` of each output, drop the rest as it comes.

    It has no input. When its time is over it is killed, and what it wrote by then is the answer.

    Raises:
        CommandError: it could not be started.
    """
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
        )
    except OSError as exc:
        raise CommandError(argv, f"could not start: {exc.strerror}") from exc
    deadline = time.monotonic() + timeout_s
    kept: dict[int, bytearray] = {}
    dropped, timed_out = 0, False
    with process, selectors.DefaultSelector() as selector:
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                kept[pipe.fileno()] = bytearray()
                selector.register(pipe.fileno(), selectors.EVENT_READ)
        outputs = list(kept.values())
        while selector.get_map():
            events = selector.select(max(deadline - time.monotonic(), 0.0))
            if not events or time.monotonic() > deadline:
                timed_out = True
                process.kill()
                break
            for key, _ in events:
                piece = os.read(key.fd, PIECE_BYTES)
                if not piece:
                    selector.unregister(key.fd)
                    continue
                room = limit_bytes - len(kept[key.fd])
                kept[key.fd] += piece[:room]
                dropped += max(len(piece) - room, 0)
        try:
            process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            timed_out = True
            process.kill()
    return Bounded(process.returncode, bytes(outputs[0]), bytes(outputs[1]), dropped, timed_out)


def _environment() -> dict[str, str]:
    """The caller's environment with messages in English: their words are matched."""
    return {**os.environ, "LC_ALL": "C.UTF-8"}
