"""Processes of a measurement: commands that are timed, and servers that live as long as a block."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from benchmarks.errors import BenchmarkError

COMMAND_TIMEOUT_S: Final = 600
START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 10.0
POLL_S: Final = 0.05
LOOPBACK: Final = "127.0.0.1"

Words: TypeAlias = Sequence[str | Path]
"""A command and its arguments."""


def timed(argv: Words, *, environment: Mapping[str, str] | None = None) -> tuple[float, bytes]:
    """Run a command to its end: wall time of the whole process in seconds, and its output.

    Raises:
        BenchmarkError: it failed or did not end.
    """
    started = time.perf_counter()
    try:
        result = subprocess.run(
            [str(word) for word in argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise BenchmarkError(f"{_quoted(argv)} did not end in {COMMAND_TIMEOUT_S} s") from exc
    seconds = time.perf_counter() - started
    if result.returncode != 0:
        raise BenchmarkError(f"{_quoted(argv)} ended with {result.returncode}: {_tail(result.stdout)}")
    return seconds, result.stdout


@contextlib.contextmanager
def server(
    argv: Words,
    *,
    log: Path,
    answers: Callable[[], bool],
    environment: Mapping[str, str] | None = None,
    start_s: float = START_TIMEOUT_S,
) -> Iterator[int]:
    """A server that answers, as its process id; it ends with the block.

    Args:
        argv: stays in the foreground.
        log: takes what it prints.
        answers: asked until it is true.
        start_s: how long at most.

    Raises:
        BenchmarkError: it ended, or does not answer.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
        )
    try:
        deadline = time.monotonic() + start_s
        while not answers():
            if process.poll() is not None:
                raise BenchmarkError(
                    f"{_quoted(argv)} ended with {process.returncode}: {_tail(log.read_bytes())}"
                )
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{_quoted(argv)} does not answer: {_tail(log.read_bytes())}")
            time.sleep(POLL_S)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port(kind: socket.SocketKind) -> int:
    """A port of the loopback address that nobody has at this moment; the network is ours alone."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind((LOOPBACK, 0))
        port: int = sock.getsockname()[1]
        return port


def accepts_tcp(port: int) -> bool:
    """Whether somebody listens."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def process_tree(pid: int) -> list[int]:
    """The process and all its descendants that are alive."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():  # each thread has its own children
                children = (task / "children").read_text("ascii")
                found += [int(child) for child in children.split()]
    return found


def resident_bytes(pid: int) -> int:
    """Resident memory of a process tree. Pages that its processes share count for each of them.

    Source: proc(5), /proc/pid/statm, field 2, in pages.
    """
    pages = 0
    for member in process_tree(pid):
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{member}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _quoted(argv: Words) -> str:
    return shlex.join(str(word) for word in argv)


def _tail(output: bytes) -> str:
    return " / ".join(output.decode("utf-8", "replace").strip().splitlines()[-3:])
