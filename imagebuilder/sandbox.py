"""A private user namespace in which arm64 programs run and file owners are real, without root on the host.

    python -m imagebuilder.sandbox [--no-arm64] -- COMMAND [ARG…]

starts COMMAND as uid 0 of new user, mount, PID, UTS and IPC namespaces. Uid 0 is the calling user; 1 and up
come from the caller's range in /etc/subuid (a caller who is root keeps every id as it is). Where the host has
no binfmt_misc entry for arm64, one is registered in an instance of binfmt_misc that belongs to this namespace
alone (Linux 6.7 and newer), so the host is not changed. All mounts and processes in here end with the
command, or with the launcher: the kernel kills every process of a PID namespace when its first one dies, and
PR_SET_PDEATHSIG ties the first one to the launcher.

Owns: the namespaces and the binfmt_misc registration. This module runs alone in its own process; the others
call ``sandboxed(argv)`` to get the argv that starts it, and give that to the runner.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from imagebuilder.errors import ImageBuilderError
from imagebuilder.runner import require_tools, run

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
PR_SET_PDEATHSIG: Final = 1
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 1 << 18

BINFMT: Final = Path("/proc/sys/fs/binfmt_misc")
ENTRY_NAME: Final = "qemu-aarch64"
QEMU_CANDIDATES: Final = ("qemu-aarch64-static", "qemu-aarch64")
# ELF, 64 bit, little endian, ET_EXEC or ET_DYN, EM_AARCH64 (0xb7); the ABI byte is masked out.
# Source: the ELF header's layout, and Linux Documentation/admin-guide/binfmt-misc.rst for the form.
_MAGIC: Final = r"\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
_MASK: Final = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
# Finds this package again from any working directory, installed or not.
_LAUNCH: Final = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from imagebuilder.sandbox import main; main()"
)
NO_ARM64: Final = "--no-arm64"
SANDBOX_FAILED: Final = 125
"""Exit code when the sandbox itself could not be made, as env(1) and docker use it."""
MINIMUM_SUBIDS: Final = 65535
"""Ids that a Debian tree uses: 1–65534 and nobody's neighbour; what adduser hands out is 65536."""


_RIGHTS_HINT: Final = (
    "On Ubuntu 24.04 and newer, AppArmor can be what refuses: "
    "sysctl kernel.apparmor_restrict_unprivileged_userns=0."
)


class SandboxError(ImageBuilderError):
    """The host does not let us make the namespace, or run arm64 programs in it."""


@dataclass(frozen=True, slots=True)
class IdRange:
    """``count`` ids: ``inner`` inside the namespace is ``outer`` outside."""

    inner: int
    outer: int
    count: int


def sandboxed(argv: Sequence[str], *, arm64: bool = True) -> list[str]:
    """The argv that runs ``argv`` as root of a private namespace.

    Args:
        argv: the command.
        arm64: arm64 programs must run in it. Without, no emulator is needed.
    """
    flags = [] if arm64 else [NO_ARM64]
    return [sys.executable, "-I", "-c", _LAUNCH, str(Path(__file__).parents[1]), *flags, "--", *argv]


def require_sandbox(*, arm64: bool = True) -> None:
    """Raise ``SandboxError`` if the sandbox cannot be made here, or (``arm64``) run arm64 programs."""
    tried = run(sandboxed(["true"], arm64=arm64), check=False, timeout_s=60)
    if tried.returncode != 0:
        *message, hint = tried.stderr.decode(errors="replace").strip().splitlines() or [""]
        raise SandboxError("\n".join(message) or f"the sandbox ended with exit code {tried.returncode}", hint)


def parse_id_map(text: str) -> list[IdRange]:
    """Read the text of /proc/PID/uid_map: lines of inner start, outer start, count."""
    return [IdRange(*(int(word) for word in line.split())) for line in text.splitlines() if line.strip()]


def keep_all_ids(own: Sequence[IdRange]) -> list[IdRange]:
    """A map under which every id that the caller has keeps its number."""
    return [IdRange(entry.inner, entry.inner, entry.count) for entry in own]


def find_subids(text: str, user: str, uid: int) -> IdRange | None:
    """The caller's first range in the text of /etc/subuid (``name-or-uid:start:count``), placed at id 1."""
    for line in text.splitlines():
        fields = line.strip().split(":")
        if len(fields) == 3 and fields[0] in (user, str(uid)) and fields[1].isdigit() and fields[2].isdigit():
            return IdRange(1, int(fields[1]), int(fields[2]))
    return None


def registration(interpreter: Path) -> str:
    """The line for binfmt_misc's ``register`` file. F opens the interpreter now: no chroot need hold it."""
    return f":{ENTRY_NAME}:M::{_MAGIC}:{_MASK}:{interpreter}:F"


def is_usable_entry(text: str) -> bool:
    """Whether a binfmt_misc entry, as the kernel shows it, works in a tree without the interpreter."""
    words = [line.split() for line in text.splitlines()]
    return ["enabled"] in words and any(line[:1] == ["flags:"] and "F" in "".join(line[1:]) for line in words)


def _user_ranges(kind: str, own_id: int) -> list[IdRange]:
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run us under a number without a name
        user = str(os.getuid())
    table = Path(f"/etc/sub{kind}")
    found = find_subids(table.read_text() if table.is_file() else "", user, os.getuid())
    if found is None or found.count < MINIMUM_SUBIDS:
        held = "no range" if found is None else f"a range of only {found.count} ids"
        raise SandboxError(
            f"{table}: user {user!r} has {held}; {MINIMUM_SUBIDS} are needed, to own the image's files",
            f"Give the user a range once: sudo usermod --add-subuids 100000-165535 "
            f"--add-subgids 100000-165535 {user}. Or run the build as root.",
        )
    return [IdRange(0, own_id, 1), found]


def _write_maps(pid: int) -> None:
    """Give the new user namespace of ``pid`` its ids. Runs in the launcher, outside the namespace."""
    if os.geteuid() == 0:
        for kind in ("uid", "gid"):
            ranges = keep_all_ids(parse_id_map(Path(f"/proc/self/{kind}_map").read_text()))
            Path(f"/proc/{pid}/{kind}_map").write_text(
                "".join(f"{r.inner} {r.outer} {r.count}\n" for r in ranges)
            )
        return
    require_tools("newuidmap", "newgidmap")
    for kind, own in (("uid", os.getuid()), ("gid", os.getgid())):
        numbers = [str(n) for r in _user_ranges(kind, own) for n in (r.inner, r.outer, r.count)]
        run([f"new{kind}map", str(pid), *numbers], timeout_s=10)


def _syscall_ok(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _unshare(libc: ctypes.CDLL) -> None:
    flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC
    try:
        _syscall_ok(libc.unshare(flags), "unshare")
    except OSError as exc:
        raise SandboxError(
            f"this kernel does not let user {os.getuid()} make a user namespace: {exc.strerror}",
            "Allow it (sysctl user.max_user_namespaces above 0; on older Debian "
            "kernel.unprivileged_userns_clone=1), or run the build as root.",
        ) from exc


def _register_arm64(libc: ctypes.CDLL) -> None:
    """Make arm64 programs run in this namespace, unless the host's own registration already does."""
    if os.uname().machine in ("aarch64", "arm64"):
        return
    entry = BINFMT / ENTRY_NAME
    if entry.is_file() and is_usable_entry(entry.read_text()):
        return
    interpreter = next((path for name in QEMU_CANDIDATES if (path := shutil.which(name))), None)
    if interpreter is None:
        require_tools(QEMU_CANDIDATES[0])
    try:
        _syscall_ok(
            libc.mount(b"binfmt_misc", os.fsencode(BINFMT), b"binfmt_misc", 0, None), "mount binfmt_misc"
        )
        (BINFMT / "register").write_text(registration(Path(interpreter or "")))
    except OSError as exc:
        raise SandboxError(
            f"arm64 programs cannot run here: no {ENTRY_NAME} entry in {BINFMT}, and a private one failed "
            f"({exc.strerror}; it needs Linux 6.7, this is {os.uname().release})",
            "Register qemu for the whole machine once, as root: apt install qemu-user-static binfmt-support "
            "(in a container: do that on its host), or build on an arm64 machine. " + _RIGHTS_HINT,
        ) from exc


def _inside(argv: Sequence[str], arm64: bool, ready_w: int, go_r: int) -> NoReturn:
    """The child: enter the namespaces, wait for the id maps, become root, run the command below PID 1."""
    libc = ctypes.CDLL(None, use_errno=True)
    _unshare(libc)
    os.write(ready_w, b"u")
    os.close(ready_w)
    if os.read(go_r, 1) != b"m":
        os._exit(1)  # the launcher has said why
    os.close(go_r)
    try:
        os.setgid(0)
        os.setuid(0)
        os.setgroups([])
    except OSError as exc:
        raise SandboxError(f"the sandbox has no rights: {exc}", _RIGHTS_HINT) from exc
    # Only now: the kernel drops the setting with every change of credentials. A launcher that died before
    # shows as the closed pipe above.
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    init = os.fork()
    if init:
        os._exit(_forward(init))
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _syscall_ok(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "mount --make-rprivate /")
    if arm64:
        _register_arm64(libc)
    command = os.fork()
    if command == 0:
        os.execvp(argv[0], list(argv))  # noqa: S606  (no shell is the point)
    os._exit(_reap_until(command))


def _reap_until(pid: int) -> int:
    """PID 1's work: collect every orphan until ``pid`` ends; its exit code."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            return _exit_code(status)


def _forward(pid: int) -> int:
    """Wait for ``pid``; its exit code. SIGINT and SIGTERM end it, and with it the whole PID namespace."""

    def end(_number: int, _frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    return _exit_code(os.waitpid(pid, 0)[1])


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def launch(argv: Sequence[str], *, arm64: bool) -> int:
    """Start ``argv`` in the sandbox; its exit code, or ``SANDBOX_FAILED``."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # kill -9 of the builder ends all of this too
    ready_r, ready_w = os.pipe()
    go_r, go_w = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready_r)
        os.close(go_w)
        try:
            _inside(argv, arm64, ready_w, go_r)
        except (OSError, ImageBuilderError) as exc:
            print(exc, file=sys.stderr, flush=True)
            os._exit(SANDBOX_FAILED)
    os.close(ready_w)
    os.close(go_r)
    if os.read(ready_r, 1) == b"u":
        try:
            _write_maps(child)
            os.write(go_w, b"m")
        except (OSError, ImageBuilderError) as exc:
            print(exc, file=sys.stderr, flush=True)
            os.close(go_w)
            os.waitpid(child, 0)
            return SANDBOX_FAILED
    return _forward(child)


def main() -> NoReturn:
    """The command line: see the module's text."""
    arguments = sys.argv[1:]
    arm64 = arguments[:1] != [NO_ARM64]
    if not arm64:
        del arguments[0]
    if arguments[:1] != ["--"] or len(arguments) < 2:
        print(f"usage: python -m imagebuilder.sandbox [{NO_ARM64}] -- COMMAND [ARG…]", file=sys.stderr)
        sys.exit(2)
    sys.exit(launch(arguments[1:], arm64=arm64))


if __name__ == "__main__":
    main()
