"""What changed in a tree. Runs as root of the sandbox, alone: it imports nothing of ours.

    python3 capture.py snapshot TREE STATE       remember every path of the tree
    python3 capture.py compare TREE STATE INTO   write INTO/changes.json, and contents as INTO/files/<sha256>

A path counts as changed when its inode, its owner or mode, or the time of its last change differ; a directory
only by owner, mode and attributes, because entries come and go in it. Times later than EPOCH (environment,
seconds since 1970) become EPOCH: what apt writes itself has the time of the build, which would differ between
two builds.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Left by package tools, of no use on a node, or the node's own: never part of a layer.
IGNORED = (
    "/dev/*",
    "/proc/*",
    "/run/*",
    "/sys/*",
    "/tmp/*",
    "/var/tmp/*",
    "/etc/.pwd.lock",
    "/etc/group-",
    "/etc/gshadow-",
    "/etc/passwd-",
    "/etc/shadow-",
    "/etc/subgid-",
    "/etc/subuid-",
    "/etc/machine-id",
    "/etc/nvme/hostid",
    "/etc/nvme/hostnqn",
    "/etc/resolv.conf",
    "/etc/ssh/ssh_host_*",
    "/root/.*",
    "/usr/sbin/policy-rc.d",
    "/var/cache/apt/*",
    "/var/cache/debconf/*-old",
    "/var/cache/debconf/tmp.ci",
    "/var/cache/ldconfig/*",
    "/var/lib/apt/lists/*",
    "/var/lib/apt/periodic/*",
    "/var/lib/dbus/machine-id",
    "/var/lib/dpkg/*-old",
    "/var/lib/dpkg/lock*",
    "/var/lib/dpkg/triggers/Lock",
    "/var/lib/systemd/random-seed",
)
# Logs tell of the build; the directories that packages make for theirs stay.
NO_FILES_BELOW = "/var/log/"
# Others belong to the host that the tree lies on (security.selinux, trusted.*).
KEPT_ATTRIBUTES = ("security.capability", "system.posix_acl_access", "system.posix_acl_default", "user.")


def is_ignored(path: str, mode: int) -> bool:
    """Whether a change of this path is not part of a layer."""
    if path.startswith(NO_FILES_BELOW) and not stat.S_ISDIR(mode):
        return True
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in IGNORED)


def walk(tree: str) -> Iterator[tuple[str, os.stat_result]]:
    """(path in the tree, state) of everything below ``tree``, sorted, parents first; links not followed."""
    pending = [""]
    while pending:
        directory = pending.pop()
        below = []
        with os.scandir(tree + directory) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = f"{directory}/{entry.name}"
                yield path, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    below.append(path)
        pending.extend(reversed(below))


def fingerprint(tree: str, path: str, state: os.stat_result) -> list[Any]:
    """Equal before and after: not changed."""
    common = [state.st_mode, state.st_uid, state.st_gid]
    if stat.S_ISDIR(state.st_mode):
        return [*common, attributes(tree + path)]
    return [*common, state.st_ino, state.st_ctime_ns]


def attributes(path: str) -> dict[str, str]:
    """The extended attributes that belong to the image, as name → hex digits."""
    names = os.listxattr(path, follow_symlinks=False)
    kept = sorted(name for name in names if name.startswith(KEPT_ATTRIBUTES))
    return {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in kept}


def snapshot(tree: str) -> dict[str, list[Any]]:
    """Path → fingerprint of everything in the tree."""
    return {path: fingerprint(tree, path, state) for path, state in walk(tree)}


def compare(tree: str, before: dict[str, list[Any]], into: Path, epoch: int) -> dict[str, Any]:
    """The changes as JSON values: ``entries`` sorted with parents first, ``removed`` sorted."""
    files = into / "files"
    files.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    seen: set[str] = set()
    first_name: dict[int, str] = {}
    for path, state in walk(tree):
        seen.add(path)
        if before.get(path) == fingerprint(tree, path, state) or is_ignored(path, state.st_mode):
            continue
        entry: dict[str, Any] = {
            "path": path,
            "mode": state.st_mode,
            "uid": state.st_uid,
            "gid": state.st_gid,
            "mtime": min(int(state.st_mtime), epoch),
            "attributes": attributes(tree + path),
        }
        if stat.S_ISLNK(state.st_mode):
            entry["target"] = os.readlink(tree + path)  # noqa: PTH115  (a text, as it stands)
        elif stat.S_ISREG(state.st_mode):
            if state.st_nlink > 1 and state.st_ino in first_name:
                entry["same_as"] = first_name[state.st_ino]
            else:
                first_name[state.st_ino] = path
                entry["sha256"] = keep(tree + path, files)
                entry["size_bytes"] = state.st_size
        elif not stat.S_ISDIR(state.st_mode) and not stat.S_ISFIFO(state.st_mode):
            continue  # sockets; device nodes cannot be made in a user namespace
        entries.append(entry)
    removed = [path for path in sorted(before) if path not in seen and not is_ignored(path, before[path][0])]
    return {"entries": entries, "removed": removed}


def keep(path: str, files: Path) -> str:
    """Copy a file's content to ``files/<sha256>`` and return the digest."""
    digest = hashlib.sha256()
    part = files / ".part"
    with open(path, "rb") as source, part.open("wb") as target:  # noqa: PTH123  (names need not be UTF-8)
        while piece := source.read(1 << 20):
            digest.update(piece)
            target.write(piece)
    part.rename(files / digest.hexdigest())
    return digest.hexdigest()


def main() -> None:
    """See the module's text."""
    match sys.argv[1:]:
        case ["snapshot", tree, state]:
            Path(state).write_text(json.dumps(snapshot(tree)))
        case ["compare", tree, state, into]:
            before = json.loads(Path(state).read_text())
            changes = compare(tree, before, Path(into), int(os.environ["EPOCH"]))
            Path(into, "changes.json").write_text(json.dumps(changes, indent=1, sort_keys=True) + "\n")
        case _:
            sys.exit("usage: capture.py snapshot TREE STATE | compare TREE STATE INTO")


if __name__ == "__main__":
    main()
