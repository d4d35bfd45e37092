"""The one place of this package that starts programs: argv lists, never a shell."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from lab.errors import CommandError, LabError, ToolMissingError

log = logging.getLogger(__name__)

_PACKAGES: Final = {
    "fdtput": "device-tree-compiler",
    "ip": "iproute2",
    "mcopy": "mtools",
    "qemu-system-aarch64": "qemu-system-arm",
    "setpriv": "util-linux",
}
_ADMIN_FOLDERS: Final = ("/usr/sbin", "/sbin")
"""Not on an ordinary user's PATH in Debian, and `ip` is there."""


def require_tool(name: str) -> str:
    """Path of a program.

    Raises:
        ToolMissingError: It is not installed.
    """
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_ADMIN_FOLDERS))
    found = shutil.which(name, path=path)
    if found is None:
        package = _PACKAGES.get(name, name)
        raise ToolMissingError(f"{name} is not installed", f"Install the package {package}.")
    return found


def run(
    argv: Sequence[str], *, timeout_s: float = 60.0, check: bool = True, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end and return what it wrote.

    Args:
        argv: The program's name and its arguments.
        timeout_s: After which it is killed.
        check: Whether a status other than 0 is an error.
        env: Variables on top of the inherited ones.

    Raises:
        ToolMissingError: It is not installed.
        CommandError: It failed.
        LabError: It did not end in time.
    """
    full = [require_tool(argv[0]), *argv[1:]]
    log.debug("run %s", shlex.join(full))
    try:
        done = subprocess.run(
            full,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            env={**os.environ, **env} if env else None,
        )
    except subprocess.TimeoutExpired as exc:
        raise LabError(f"`{shlex.join(argv)}` did not end within {timeout_s:g} s and was killed") from exc
    if check and done.returncode != 0:
        raise CommandError(argv, done.returncode, done.stderr.decode("utf-8", "replace"))
    return done


def spawn(argv: Sequence[str], *, stderr: IO[bytes], pass_fds: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Start a program whose standard input and output are pipes, and which dies when the calling *thread*
    does.

    The kernel's parent-death signal is set by setpriv in the new process itself: a `preexec_fn` in a process
    with threads can deadlock.

    Raises:
        ToolMissingError: The program or setpriv is not installed.
    """
    full = [require_tool("setpriv"), "--pdeathsig", "KILL", "--", require_tool(argv[0]), *argv[1:]]
    log.debug("spawn %s", shlex.join(full))
    return subprocess.Popen(
        full,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        bufsize=0,
        pass_fds=tuple(pass_fds),
        start_new_session=True,
    )


def replace_process(argv: Sequence[str]) -> None:
    """Become another program: it keeps this process's namespaces, terminal and exit status. Returns only by
    an error.

    Raises:
        ToolMissingError: There is no such program.
        LabError: The kernel refuses to run it.
    """
    program = require_tool(argv[0]) if "/" not in argv[0] else str(Path(argv[0]))
    try:
        os.execv(program, list(argv))  # noqa: S606 (no shell is the point)
    except OSError as exc:
        raise LabError(f"{program} can not be run: {exc.strerror}") from exc
