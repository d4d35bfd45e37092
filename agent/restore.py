"""Brings etcd's data back from a snapshot: on the one server with which a lost cluster is recovered.

Once in a cluster's life, so it is imported only then. It goes on in rounds of the agent's loop, because a
snapshot takes minutes on a slow link and the agent must be heard meanwhile:

    fetch     the snapshot in pieces, on from where an earlier round or boot ended; its digest must be right
    run       k3s in a unit of its own, with the drop-in that says `cluster-reset`: it restores, and ends
    finish    the drop-in and the snapshot go, and a mark stays: nothing is ever restored twice

Power lost before the mark is written ends in another run, which k3s bears: it sets the data of the first one
aside.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from agent.actions import resolve
from agent.commands import Runner
from agent.errors import AgentError
from agent.files import sync_directory, write_atomically
from agent.recovery import Restore

UNIT = "bramble-k3s-restore.service"
K3S = "/usr/local/bin/k3s"
PIECE_BYTES = 1 << 20
"""As much as one answer of the control server has."""
MARK = "done"
FETCH_PIECES = 64
FETCH_S = 10.0
"""Of one round, whichever comes first: the agent reports in between, and its watchdog waits two minutes."""
RUN_LIMIT = "TimeoutStartSec=15min"

Fetch = Callable[[str, int], bytes]
"""(id of the recovery, offset) → the next bytes of the snapshot."""


def advance(root: Path, run: Runner, fetch: Fetch, restore: Restore) -> str:
    """Do what is next; what is waited for, or "" when the data are back.

    Raises:
        AgentError: it failed; asking again tries again.
    """
    data = resolve(root, restore.path)
    mark = data.with_name(MARK)
    if _read(mark) == restore.id:
        _clean(root, restore, data)
        return ""
    state = _unit_state(run)
    if state == "activating":
        return "k3s restores the snapshot"
    if state == "active":  # it has ended well, and stays like that until it is stopped
        # Before the mark: what k3s wrote counts for nothing while it is in memory only.
        os.sync()
        write_atomically(mark, restore.id.encode(), 0o600)
        _clean(root, restore, data)
        run(["systemctl", "stop", UNIT], check=False)
        return ""
    if state == "failed":
        last = _last_line(run)
        run(["systemctl", "reset-failed", UNIT], check=False)
        raise AgentError(
            f"k3s did not restore the snapshot: {last}",
            f"It is tried again. 'journalctl -u {UNIT}' on the node tells more; docs/recovery.md.",
        )
    waits = _fetch_all(data, fetch, restore)
    if waits:
        return waits
    argv = ["systemd-run", "--quiet", "--no-block", f"--unit={UNIT}", "--service-type=oneshot"]
    argv += ["--remain-after-exit", f"--property={RUN_LIMIT}", "--", str(K3S), "server"]
    run(argv)
    return "k3s restores the snapshot"


def _fetch_all(data: Path, fetch: Fetch, restore: Restore) -> str:
    """Fetch what is missing; what is waited for, or "" when the file is whole and right."""
    data.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _require_room(data, restore)
    end = time.monotonic() + FETCH_S
    with data.open("ab") as stream:
        os.chmod(stream.fileno(), 0o600)  # noqa: PTH101  the descriptor, not a name
        for number in range(FETCH_PIECES):
            have = stream.tell()
            if have >= restore.size_bytes or (number and time.monotonic() >= end):
                break
            piece = fetch(restore.id, have)
            if not piece:
                raise AgentError(
                    f"the snapshot ends after {have} of {restore.size_bytes} bytes",
                    "The control server's copy is not what it was: 'bramble snapshot verify' there.",
                )
            stream.write(piece)
        stream.flush()
        os.fsync(stream.fileno())
        have = stream.tell()
    if have < restore.size_bytes:
        return f"fetches the snapshot, {have * 100 // restore.size_bytes} %"
    with data.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(PIECE_BYTES):
            digest.update(block)
    if have != restore.size_bytes or digest.hexdigest() != restore.sha256:
        data.unlink()
        raise AgentError(
            f"the snapshot that came has sha256 {digest.hexdigest()[:12]}…, {restore.sha256[:12]}… was "
            "announced",
            "It is fetched anew. If that goes on: 'bramble snapshot verify' on the control server.",
        )
    return ""


def _require_room(data: Path, restore: Restore) -> None:
    """A disk that is filled to the end by half a snapshot is of no use to anybody, k3s included."""
    try:
        missing = restore.size_bytes - data.stat().st_size
    except FileNotFoundError:
        missing = restore.size_bytes
    space = os.statvfs(data.parent)
    free = space.f_bavail * space.f_frsize
    # k3s writes the data beside the copy, and needs about as much again.
    if missing > 0 and missing + restore.size_bytes > free:
        raise AgentError(
            f"the snapshot has {restore.size_bytes} bytes and k3s needs as much again, the disk has room for "
            f"{free}",
            f"Make room below {data.parent} on the node ('df -h'); it goes on by itself.",
        )


def _unit_state(run: Runner) -> str:
    """`inactive` where there is no such unit."""
    text = run(["systemctl", "show", "-p", "ActiveState", UNIT]).text
    return text.strip().partition("=")[2]


def _last_line(run: Runner) -> str:
    argv = ["journalctl", "--unit", UNIT, "--lines", "5", "--output", "cat", "--no-pager"]
    lines = [line for line in run(argv, check=False).text.splitlines() if line.strip()]
    return lines[-1].strip()[-300:] if lines else "it says nothing"


def _clean(root: Path, restore: Restore, data: Path) -> None:
    """Take away what would make k3s restore again, first; then the copy of the cluster's secrets."""
    for path in (resolve(root, restore.reset_drop_in), data):
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            sync_directory(path.parent)


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return ""
