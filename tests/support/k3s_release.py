"""The k3s that the contract tests run: the simulator, and the release in the directory that K3S names."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from k3s_sim_etcd import PACE, etcd_directory

from fleet.k3s.versions import Feature, K3sVersion, has, is_since
from lab.k3s_sim.release import build_release

VARIABLE: Final = "K3S"
SIMULATED_VERSION: Final = "v1.33.5+k3s1"
_PROGRAMS: Final = {"x86_64": ("k3s", "k3s-amd64"), "aarch64": ("k3s-arm64", "k3s")}
_ELF_MACHINES: Final = {"x86_64": 62, "aarch64": 183}
"""e_machine of an ELF header. Source: the System V ABI's supplements for the two."""


@dataclass(frozen=True)
class Release:
    """A k3s that can be started on this machine."""

    name: str
    program: tuple[str, ...]
    version: K3sVersion
    environ: Mapping[str, str] = field(default_factory=dict)
    ready_s: float = 150.0

    @property
    def eviction_version(self) -> str:
        """Which kind of Eviction the API takes."""
        return "policy/v1" if has(self.version, Feature.POLICY_V1) else "policy/v1beta1"

    @property
    def refuses_names_twice(self) -> bool:
        """A server does not join under the name of another member. k3s pull requests 4025 and 4213."""
        return is_since(self.version, ((1, 21, 6), (1, 22, 3)))

    @property
    def founds_when_removed(self) -> bool:
        """A server without a token that starts again once its member was removed begins a cluster of its own.

        Seen on v1.21.3, and copied by the simulator; of other releases nobody has looked.
        """
        return self.name == "simulator" or (self.version.major, self.version.minor) == (1, 21)

    @property
    def compares_settings(self) -> bool:
        """A server does not join with settings that must agree and do not. k3s issues 4579 and 4675."""
        return is_since(self.version, ((1, 20, 14), (1, 21, 8), (1, 22, 5)))


def simulated_release(directory: Path) -> Release:
    """The simulator with a real etcd."""
    build_release(directory, SIMULATED_VERSION)
    version = K3sVersion.find(SIMULATED_VERSION)
    assert version is not None
    environ = {"K3S_SIM_ETCD": str(etcd_directory()), **PACE}
    return Release("simulator", (sys.executable, str(directory / "k3s-arm64")), version, environ)


def real_release(directory: Path) -> Release:
    """The release in a directory, which holds a k3s for this machine's processor."""
    machine = platform.machine()
    for name in _PROGRAMS[machine]:
        file = directory / name
        if file.is_file() and _machine(file) == _ELF_MACHINES[machine]:
            return Release("real", (str(file),), _told_version(str(file)), ready_s=300.0)
    wanted = " or ".join(_PROGRAMS[machine])
    raise AssertionError(f"{directory} holds no k3s for {machine}; a program named {wanted} is expected")


def board_version(directory: Path) -> K3sVersion:
    """The version of a release's program for boards (arm64), which runs emulated where it must."""
    program = directory / "k3s-arm64"
    is_native = platform.machine() == "aarch64" or _machine(program) is None
    return _told_version(*([] if is_native else ["qemu-aarch64-static"]), str(program))


def _told_version(*program: str) -> K3sVersion:
    done = subprocess.run([*program, "--version"], capture_output=True, check=True, text=True)
    version = K3sVersion.find(done.stdout)
    assert version is not None, f"'{program[-1]} --version' names no k3s release: {done.stdout!r}"
    return version


def given_release() -> Path | None:
    """The directory that K3S names."""
    text = os.environ.get(VARIABLE, "")
    return Path(text).resolve() if text else None


def _machine(file: Path) -> int | None:
    with file.open("rb") as stream:
        header = stream.read(20)
    return int.from_bytes(header[18:20], "little") if header[:4] == b"\x7fELF" else None
