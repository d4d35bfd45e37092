"""Changes to the root tree of a clone, as one debugfs session.

The product has an editor of its own; the images that it is tested on are made without it. Paths must be real
ones (/usr/lib, not /lib): debugfs does not follow a link at the end of a path.
"""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from imagebuilder.disk.ext4 import Ext4Volume
from imagebuilder.disk.source import open_source
from imagebuilder.runner import run

TIME: Final = "@1700000000"


class Tree:
    """The ext4 filesystem in the file ``volume``; changes are collected and written by ``write``."""

    def __init__(self, volume: Path, scratch: Path) -> None:
        self._volume = volume
        self._scratch = scratch
        self._commands: list[str] = []
        self._made: set[str] = set()
        self._removed: set[str] = set()
        self._texts: dict[str, str] = {}

    # --- reading

    def read(self, path: str) -> str:
        """A text file, with what was already changed in this session."""
        if path in self._texts:
            return self._texts[path]
        with open_source(self._volume) as source:
            return Ext4Volume(source, 0).read(path).decode()

    def has(self, path: str) -> bool:
        with open_source(self._volume) as source:
            return Ext4Volume(source, 0).find(path, follow=False) is not None

    def list_paths(self, top: str) -> list[str]:
        """All paths below ``top``, parents first; empty where it is not there."""
        with open_source(self._volume) as source:
            volume = Ext4Volume(source, 0)
            return [path for path, _ in volume.walk(top)] if volume.find(top) else []

    # --- changing

    def put(self, path: str, text: str, *, mode: int = 0o644, uid: int = 0, gid: int = 0) -> None:
        """Write a file, replacing one that is there."""
        self._clear(path)
        self.directory(posixpath.dirname(path))
        host = self._scratch / f"text-{len(self._commands)}"
        host.write_text(text)
        self._texts[path] = text
        self._commands += [f'cd "{posixpath.dirname(path)}"', f'write "{host}" "{posixpath.basename(path)}"']
        self._own(path, stat.S_IFREG | mode, uid, gid)

    def edit(self, path: str, change: Callable[[str], str]) -> None:
        """Rewrite a text file; its mode and owner stay."""
        with open_source(self._volume) as source:
            inode = Ext4Volume(source, 0).require(path)
        self.put(path, change(self.read(path)), mode=stat.S_IMODE(inode.mode), uid=inode.uid, gid=inode.gid)

    def link(self, path: str, target: str) -> None:
        self._clear(path)
        self.directory(posixpath.dirname(path))
        name = posixpath.basename(path)
        self._commands += [f'cd "{posixpath.dirname(path)}"', f'symlink "{name}" "{target}"']

    def directory(self, path: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0) -> None:
        """Make a directory and its parents where they are missing."""
        if path in ("", "/") or path in self._made or (self.has(path) and path not in self._removed):
            return
        self.directory(posixpath.dirname(path))
        self._made.add(path)
        self._commands += [f'cd "{posixpath.dirname(path)}"', f'mkdir "{posixpath.basename(path)}"']
        self._own(path, stat.S_IFDIR | mode, uid, gid)

    def remove(self, *paths: str) -> None:
        """Remove files, links, and whole directories, where they are."""
        with open_source(self._volume) as source:
            volume = Ext4Volume(source, 0)
            for path in paths:
                inode = volume.find(path, follow=False)
                if inode is None or path in self._removed:
                    continue
                below = list(volume.walk(path)) if inode.is_directory else []
                for found, entry in [*reversed(below), (path, inode)]:
                    if found not in self._removed:
                        self._commands.append(f'{"rmdir" if entry.is_directory else "rm"} "{found}"')
                        self._removed.add(found)

    def enable(self, unit: str, target: str = "multi-user.target") -> None:
        """What ``systemctl enable`` does for an installed unit."""
        self.link(f"/etc/systemd/system/{target}.wants/{unit}", f"/usr/lib/systemd/system/{unit}")

    def package(self, name: str, version: str, paths: Sequence[str] = ()) -> None:
        """Put a stand-in for a package into dpkg's records."""
        stanza = (
            f"Package: {name}\nStatus: install ok installed\nPriority: optional\nSection: misc\n"
            f"Maintainer: nobody <nobody@example.org>\nArchitecture: all\nVersion: {version}\n"
            f"Description: stand-in for {name} in a test image\n\n"
        )
        self.edit("/var/lib/dpkg/status", lambda text: text + stanza)
        self.put(f"/var/lib/dpkg/info/{name}.list", "".join(f"{path}\n" for path in ("/.", *paths)))

    def forget_package(self, name: str) -> None:
        """Remove a package: its files (from dpkg's own list), its records."""
        files = self.read(f"/var/lib/dpkg/info/{name}.list").split("\n")
        for path in sorted(filter(None, files), reverse=True):
            if path != "/." and self._is_file(path):
                self.remove(path)
        for path in self.list_paths("/var/lib/dpkg/info"):
            if posixpath.basename(path).partition(".")[0] == name:
                self.remove(path)
        self.edit("/var/lib/dpkg/status", lambda text: _without_stanza(text, name))

    def write(self) -> None:
        """Carry out everything.

        Raises:
            AssertionError: debugfs complained.
        """
        script = self._scratch / "debugfs.commands"
        script.write_text("".join(f"{command}\n" for command in self._commands))
        done = run(["debugfs", "-w", "-f", script, self._volume])
        complaints = [line for line in done.stderr.decode().splitlines() if not line.startswith("debugfs 1.")]
        assert not complaints, "\n".join(complaints[:20])

    def _is_file(self, path: str) -> bool:
        with open_source(self._volume) as source:
            inode = Ext4Volume(source, 0).find(path, follow=False)
        return inode is not None and not inode.is_directory

    def _clear(self, path: str) -> None:
        if path in self._texts:
            self._commands.append(f'rm "{path}"')
        else:
            self.remove(path)

    def _own(self, path: str, mode: int, uid: int, gid: int) -> None:
        settings: Iterable[tuple[str, object]] = (
            ("mode", f"0{mode:o}"),
            ("uid", uid),
            ("gid", gid),
            *((name, TIME) for name in ("atime", "ctime", "mtime", "crtime")),
        )
        self._commands += [f'sif "{path}" {name} {value}' for name, value in settings]


def _without_stanza(status: str, name: str) -> str:
    stanzas = status.split("\n\n")
    return "\n\n".join(part for part in stanzas if not part.startswith(f"Package: {name}\n"))
