"""A virtual board that Bramble's own server is installed on: its image, its disk, and a shell on it over SSH.

The process has to be in the lab's private network when the board is switched on (`lab.network`).
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bramble.paths import MIRROR_VARIABLE, store
from fleet.boards import BoardModel, DiskKind, MacAddress, Serial
from imagebuilder.bases import find_base
from imagebuilder.bases.mirror import KEYRING, find_mirror
from imagebuilder.inspect import inspect_image
from lab.board import BoardConfig, VirtualBoard
from lab.disk import VirtualDisk
from lab.network import add_tap, remove_tap

NAME: Final = "shelf-server"
ADDRESS: Final = "10.77.0.11"
USER: Final = "pi"
MAC: Final = "2c:cf:67:00:00:11"
SERIAL: Final = "c0ffee0010000011"
DISK_BYTES: Final = 8 << 30
MEMORY_MIB: Final = 2048
PACKAGES: Final = ("mtools", "xz-utils")
"""What the package of Bramble wants and the base does not have; its other needs are there."""
CONNECT_S: Final = 600.0
"""From power-on to a shell, emulated: two minutes on an idle machine."""
COMMAND_S: Final = 900.0
POLL_S: Final = 2.0
ARM64_3_13: Final = ("--arch", "arm64", "--python", "3.13")


class Machine:
    """A shell on the board. Commands run as its user, who may use sudo.

    Attributes:
        packages: Debian's packages that it can be given; it reaches no archive itself.
    """

    def __init__(self, board: VirtualBoard, key: Path, packages: Sequence[Path]) -> None:
        self.board = board
        self.packages = packages
        self._key = key
        self._options = (
            *("-i", str(key), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
            *("-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"),
            *("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=8"),
        )

    def attempt(self, line: str, *, timeout_s: float = COMMAND_S) -> subprocess.CompletedProcess[str]:
        """Type a line, and see how it ends; 255 where the board does not answer."""
        argv = ["ssh", *self._options, f"{USER}@{ADDRESS}", line]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=timeout_s)

    def type(self, line: str, *, timeout_s: float = COMMAND_S) -> str:
        """Type a line that has to succeed; what it printed."""
        done = self.attempt(line, timeout_s=timeout_s)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}\n{self.board.console.tail()}"
        return done.stdout

    def put(self, *files: Path, into: str) -> None:
        """Copy files and directories there."""
        argv = ["scp", "-r", *self._options, *map(str, files), f"{USER}@{ADDRESS}:{into}"]
        subprocess.run(argv, check=True, timeout=COMMAND_S)

    def wait_until(self, line: str, *, timeout_s: float = CONNECT_S) -> str:
        """Until a line succeeds; what it printed then."""
        deadline = time.monotonic() + timeout_s
        while True:
            done = self.attempt(line)
            if done.returncode == 0:
                return done.stdout
            told = f"'{line}' does not succeed: {done.stdout}{done.stderr}\n{self.board.console.tail()}"
            assert time.monotonic() < deadline, told
            assert self.board.is_on, told
            time.sleep(POLL_S)

    def boot_id(self) -> str:
        return self.wait_until("cat /proc/sys/kernel/random/boot_id").strip()

    def restart(self) -> None:
        """Restart it, and wait for the next boot."""
        before = self.boot_id()
        self.attempt("sudo systemctl reboot")
        self.wait_until(f"test $(cat /proc/sys/kernel/random/boot_id) != {shlex.quote(before)}")


def make_key(work: Path) -> Path:
    key = work / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=30)
    return key


def make_disk(work: Path, key: Path) -> Path:
    """The board's disk, as Raspberry Pi Imager leaves a card: a stock image with settings beside the kernel.

    Nothing of Bramble is in it: this board is no node of a cluster.
    """
    base = find_base("debian-trixie", store())
    assert base is not None
    disk = work / "disk.img"
    subprocess.run(
        ["cp", "--sparse=always", "--reflink=auto", base.disk, disk], check=True, timeout=COMMAND_S
    )
    seed = work / "seed"
    seed.mkdir()
    person = {"name": USER, "sudo": "ALL=(ALL) NOPASSWD:ALL", "shell": "/bin/bash"}
    public = key.with_suffix(".pub").read_text().strip()
    user_data = {
        "hostname": NAME,
        "users": [{**person, "ssh_authorized_keys": [public]}],
        "growpart": {"mode": "auto", "devices": ["/"]},
        "resize_rootfs": True,
    }
    port = {"match": {"macaddress": MAC}, "addresses": [f"{ADDRESS}/24"]}
    (seed / "user-data").write_text(f"#cloud-config\n{json.dumps(user_data)}\n")
    (seed / "meta-data").write_text(json.dumps({"instance-id": NAME}))
    (seed / "network-config").write_text(json.dumps({"version": 2, "ethernets": {"port": port}}))
    offset = inspect_image(disk).boot.offset
    files = [str(path) for path in sorted(seed.iterdir())]
    subprocess.run(["mcopy", "-o", "-i", f"{disk}@@{offset}", *files, "::"], check=True, timeout=60)
    os.truncate(disk, DISK_BYTES)
    return disk


def fetch_packages(work: Path) -> list[Path]:
    """Debian's packages that Bramble's own wants and the stock image does not have; apt proves them."""
    work.mkdir()
    mirror = find_mirror(os.environ.get(MIRROR_VARIABLE)).main
    (work / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} trixie main\n")
    (work / "status").touch()
    (work / "lists/partial").mkdir(parents=True)
    (work / "archives/partial").mkdir(parents=True)
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
        "Dir::State": work,
        "Dir::State::lists": work / "lists",
        "Dir::State::status": work / "status",
        "Dir::Cache": work,
        "Dir::Cache::archives": work / "archives",
        "Dir::Etc::SourceList": work / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    for words in (["update"], ["download", *PACKAGES]):
        subprocess.run(["apt-get", "-qq", *options, *words], cwd=work, check=True, timeout=COMMAND_S)
    return sorted(work.glob("*.deb"))


@contextmanager
def powered_on(work: Path, disk: Path, key: Path, packages: Sequence[Path]) -> Iterator[Machine]:
    """The board with that disk, switched on and off again; it boots its disk and asks the network nothing."""
    tap = "server0"
    add_tap(tap)
    config = BoardConfig(
        name=NAME,
        model=BoardModel.PI5,
        serial=Serial.parse(SERIAL),
        mac=MacAddress.parse(MAC),
        tap=tap,
        disks=(VirtualDisk(kind=DiskKind.NVME, path=disk, size_bytes=DISK_BYTES, serial="LAB-SERVER"),),
        memory_mib=MEMORY_MIB,
        boot_order=0xF6,
    )
    try:
        with VirtualBoard(config, run_dir=work / "board") as board:
            board.power_on()
            yield Machine(board, key, packages)
    finally:
        remove_tap(tap)
