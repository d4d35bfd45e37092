"""The one place of this package that starts processes.

Commands are argv lists, never shell text. Each child leads its own process group, so that a timeout or ^C
ends its helpers too. Output is drained while the child runs: a chatty child never blocks on a full pipe.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imagebuilder.errors import STDERR_LINES_SHOWN, CommandFailed, MissingTool

log = logging.getLogger(__name__)

SBIN: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Searched after PATH: ordinary users on Debian do not have them there, and mke2fs lives in one."""

KILL_GRACE_S: Final = 3.0
"""Seconds between SIGTERM and SIGKILL: enough for a tool to remove its temp files."""

PACKAGES: Final[Mapping[str, str]] = {
    "apt-config": "apt",
    "apt-get": "apt",
    "bmaptool": "bmap-tools",
    "debugfs": "e2fsprogs",
    "dumpe2fs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "fsck.vfat": "dosfstools",
    "lsblk": "util-linux",
    "mattrib": "mtools",
    "mcopy": "mtools",
    "mdel": "mtools",
    "mdir": "mtools",
    "mformat": "mtools",
    "minfo": "mtools",
    "mke2fs": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "mmd": "mtools",
    "mmdebstrap": "mmdebstrap",
    "mtype": "mtools",
    "newgidmap": "uidmap",
    "newuidmap": "uidmap",
    "qemu-aarch64-static": "qemu-user-static",
    "resize2fs": "e2fsprogs",
    "sfdisk": "fdisk",
    "tune2fs": "e2fsprogs",
    "unshare": "util-linux",
    "xz": "xz-utils",
    "zstd": "zstd",
}
"""Program → Debian package; a program that is not listed is in the package of its own name."""


@dataclass(frozen=True, slots=True)
class Completed:
    """What a finished command left."""

    stdout: bytes
    stderr: bytes
    returncode: int


def search_path(path: str | None = None) -> str:
    """``path`` (default: the environment's PATH) with the system directories that it lacks appended."""
    parts = [
        part for part in (os.environ.get("PATH", "") if path is None else path).split(os.pathsep) if part
    ]
    return os.pathsep.join([*parts, *(part for part in SBIN if part not in parts)])


def find_tool(name: str) -> Path | None:
    """The program's path, /usr/sbin and /sbin included."""
    found = shutil.which(name, path=search_path())
    return Path(found) if found else None


def require_tools(*names: str) -> None:
    """Raise one ``MissingTool`` that names every program that is not installed, with its package."""
    missing = {name: PACKAGES.get(name, name) for name in names if find_tool(name) is None}
    if missing:
        raise MissingTool(missing)


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    input: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    check: bool = True,
    timeout_s: float = 600,
) -> Completed:
    """Run a command to its end and return what it wrote.

    Args:
        argv: program and arguments.
        input: bytes for its stdin; None: /dev/null.
        env: variables added to the caller's environment.
        cwd: working directory.
        check: raise when the exit code is not 0.
        timeout_s: seconds until the command and its children are killed.

    Raises:
        MissingTool: the program is not installed.
        CommandFailed: exit code other than 0 (with ``check``), or out of time.
    """
    words = [os.fspath(word) for word in argv]
    with _started(
        words, env=env, cwd=cwd, stdin=subprocess.DEVNULL if input is None else subprocess.PIPE
    ) as child:
        try:
            stdout, stderr = child.communicate(input, timeout=timeout_s)
        except subprocess.TimeoutExpired as exc:
            _end(child)
            stdout, stderr = child.communicate()
            raise CommandFailed(words, None, stderr.decode(errors="replace"), timeout_s=timeout_s) from exc
    if check and child.returncode != 0:
        raise CommandFailed(words, child.returncode, stderr.decode(errors="replace"))
    return Completed(stdout, stderr, child.returncode)


def stream(
    argv: Sequence[str | os.PathLike[str]],
    *,
    on_line: Callable[[str], None],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float = 600,
) -> None:
    """Run a command and hand over its stdout and stderr, merged, line by line as they come.

    ``\\r`` ends a line too (progress meters). ``on_line`` runs in the calling thread; if it raises, the
    command is killed and the error goes on.

    Raises:
        MissingTool: the program is not installed.
        CommandFailed: exit code other than 0, or out of time; holds the last 20 lines.
    """
    words = [os.fspath(word) for word in argv]
    last: deque[str] = deque(maxlen=STDERR_LINES_SHOWN)
    expired = threading.Event()
    with _started(words, env=env, cwd=cwd, stdin=subprocess.DEVNULL, merged=True) as child:

        def expire() -> None:
            expired.set()
            _end(child)

        timer = threading.Timer(timeout_s, expire)
        timer.daemon = True
        timer.start()
        try:
            for line in _lines(child):
                last.append(line)
                on_line(line)
            child.wait()
        finally:
            timer.cancel()
            if expired.is_set():
                timer.join()
    if expired.is_set():
        raise CommandFailed(words, None, "\n".join(last), timeout_s=timeout_s)
    if child.returncode != 0:
        raise CommandFailed(words, child.returncode, "\n".join(last))


def feed(
    argv: Sequence[str | os.PathLike[str]],
    *,
    pieces: Iterable[bytes],
    stdout: Path,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a filter: ``pieces`` go into its stdin one by one, its output into the new file ``stdout``.

    Memory holds one piece at a time. The pace of ``pieces`` is the progress.

    Raises:
        MissingTool: the program is not installed.
        CommandFailed: exit code other than 0; holds the last 20 lines of its stderr.
    """
    words = [os.fspath(word) for word in argv]
    complaints: list[bytes] = []
    with (
        stdout.open("xb") as target,
        _started(words, env=env, cwd=None, stdin=subprocess.PIPE, stdout=target.fileno()) as child,
    ):
        # Drained on the side: a filter that complains at length must not block on a full pipe.
        reader = threading.Thread(target=lambda: complaints.append(_all_of(child)), daemon=True)
        reader.start()
        with contextlib.suppress(BrokenPipeError):  # its exit code and its words say why
            if child.stdin is not None:
                for piece in pieces:
                    child.stdin.write(piece)
                child.stdin.close()
        child.wait()
        reader.join()
    if child.returncode != 0:
        raise CommandFailed(words, child.returncode, b"".join(complaints).decode(errors="replace"))


def _all_of(child: subprocess.Popen[bytes]) -> bytes:
    return child.stderr.read() if child.stderr is not None else b""


def _lines(child: subprocess.Popen[bytes]) -> Iterator[str]:
    if child.stdout is None:
        return
    rest = b""
    while chunk := os.read(child.stdout.fileno(), 65536):
        *whole, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
        for line in whole:
            if line:
                yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


@contextlib.contextmanager
def _started(
    words: list[str],
    *,
    env: Mapping[str, str] | None,
    cwd: Path | None,
    stdin: int,
    stdout: int = subprocess.PIPE,
    merged: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """The child process; on any way out of the block, it and its process group have ended."""
    program = find_tool(words[0])
    if program is None:
        raise MissingTool({words[0]: PACKAGES.get(words[0], words[0])})
    # Tools speak English here (their words are parsed), and they find each other in /usr/sbin as well.
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "PATH": search_path(), **(env or {})}
    log.debug("command starts", extra={"argv": words})
    child = subprocess.Popen(
        [str(program), *words[1:]],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.STDOUT if merged else subprocess.PIPE,
        env=environment,
        cwd=cwd,
        start_new_session=True,
    )
    try:
        yield child
    except BaseException:
        _end(child)
        raise
    finally:
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        child.wait()
        log.debug("command ended", extra={"argv": words, "returncode": child.returncode})


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child's whole process group: SIGTERM, a short grace, SIGKILL."""
    _signal_group(child, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(timeout=KILL_GRACE_S)
    _signal_group(child, signal.SIGKILL)
    child.wait()


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # The group outlives its leader while grandchildren live, and its id is not reused before they are gone.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)
