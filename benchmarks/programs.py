"""Peers and clients: found on this machine, or in the tree that `--peers` names.

That tree is what `dpkg-deb -x` unpacks: programs below usr/sbin and usr/bin, their libraries below usr/lib
and lib. A peer can so take part without being installed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

PLACES: Final = ("usr/sbin", "usr/bin", "sbin", "bin")
PACKAGES: Final = {
    "virt-customize": "guestfs-tools",
    "atftp": "atftp",
    "atftpd": "atftpd",
    "bmaptool": "bmap-tools",
    "curl": "curl",
    "dnsmasq": "dnsmasq-base",
    "in.tftpd": "tftpd-hpa",
    "nginx": "nginx",
    "perfdhcp": "kea-admin",
    "dd": "coreutils",
    "tc": "iproute2",
    "zstd": "zstd",
    "prometheus-node-exporter": "prometheus-node-exporter",
}
"""Program → the Debian package that holds it."""
VERSION_OPTIONS: Final = {"nginx": "-v", "perfdhcp": "-v"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program that is there."""

    name: str
    path: Path
    environment: Mapping[str, str] = field(repr=False)

    @property
    def version_option(self) -> str:
        return VERSION_OPTIONS.get(self.name, "--version")


class Programs:
    """Finds programs.

    Args:
        root: the tree that is looked at first; None: only this machine.

    Attributes:
        used: what was found, for the list of versions.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._root = root
        self.used: dict[str, Program] = {}

    def find(self, name: str) -> Program | None:
        """The program, or None where it is not installed."""
        program = self._in_tree(name) or self._on_machine(name)
        if program is not None:
            self.used[name] = program
        return program

    def _in_tree(self, name: str) -> Program | None:
        if self._root is None:
            return None
        for place in PLACES:
            path = self._root / place / name
            if path.is_file() and os.access(path, os.X_OK):
                libraries = [*self._root.glob("usr/lib/*-linux-gnu*"), *self._root.glob("lib/*-linux-gnu*")]
                searched = [*map(str, sorted(libraries)), os.environ.get("LD_LIBRARY_PATH", "")]
                environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, searched))}
                return Program(name=name, path=path, environment=environment)
        return None

    def _on_machine(self, name: str) -> Program | None:
        search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
        path = shutil.which(name, path=search)
        return None if path is None else Program(name=name, path=Path(path), environment=dict(os.environ))


def not_installed(name: str) -> str:
    """What a table says in place of figures."""
    return f"not installed: apt install {PACKAGES[name]}"
