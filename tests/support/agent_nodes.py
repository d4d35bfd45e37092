"""A node as the agent sees it: its files, and its systemctl, journalctl and k3s."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agent.commands import Completed
from agent.commands import run as run_command

SYSTEMD_RUN = f"""\
#!{sys.executable} -IS
import os, sys
program, *words = sys.argv[sys.argv.index("--") + 1 :]
if any("$" in word.replace("$$", "") for word in words):
    sys.exit("systemd would put its environment here")
os.execvp(program, [program, *(word.replace("$$", "$") for word in words)])
"""
"""Runs what stands behind '--', as 'systemd-run --wait --pipe' does; '$$' is '$' there."""


def write_tree(root: Path, files: dict[str, str | bytes]) -> Path:
    """Recorded files of a board below `root`."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def make_node_root(root: Path, **node: Any) -> Path:
    """A booted node's /proc, /sys and /etc/bramble, as far as the agent reads them."""
    document = {"version": 1, "cluster": "attic", "node": "pi-1", "role": "agent", "serial": None, **node}
    return write_tree(
        root,
        {
            "proc/device-tree/serial-number": b"10000000abcdef01\0",
            "proc/device-tree/model": b"Raspberry Pi 5 Model B Rev 1.0\0",
            "proc/meminfo": "MemTotal:        4045140 kB\nMemAvailable:    3500000 kB\n",
            "proc/uptime": "35.21 120.00\n",
            "proc/loadavg": "0.52 0.10 0.01 1/123 456\n",
            "proc/pressure/cpu": "some avg10=1.50 avg60=0.00 avg300=0.00 total=0\n",
            "proc/sys/kernel/random/boot_id": "7e0a1c5e-0000-4000-8000-000000000001\n",
            "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n",
            "run/systemd/timesync/synchronized": "",
            "etc/bramble/node.json": json.dumps(document) + "\n" * 64,
            "etc/bramble/image.json": json.dumps({"image_id": "cafe0123"}),
            "usr/local/bin/k3s": "binary",
        },
    )


Really = Callable[[Sequence[str]], Completed]


class FakeSystem:
    """systemctl, journalctl and k3s of a node; openssl is the real one. Pass it as the agent's runner."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.called = threading.Condition()
        self.active = "inactive"
        self.sub = "dead"
        self.journal = ""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        input_bytes: bytes = b"",
        timeout_s: float = 30.0,
        check: bool = True,
    ) -> Completed:
        def really(words: Sequence[str]) -> Completed:
            return run_command(words, input_bytes=input_bytes, timeout_s=timeout_s, check=check)

        if argv[0] == "openssl":
            return really(argv)
        with self.called:
            self.calls.append(tuple(argv))
            self.called.notify_all()
        if (done := self.instead(list(argv), really)) is not None:
            return done
        match list(argv):
            case ["systemctl", "show", *_]:
                answer = f"LoadState=loaded\nActiveState={self.active}\nSubState={self.sub}\nNRestarts=0\n"
            case ["systemctl", "start" | "restart", *_]:
                if self.active != "active":
                    self.active, self.sub = "activating", "start"
                answer = ""
            case ["journalctl", *_]:
                answer = self.journal
            case [binary, "--version"] if binary.endswith("/k3s"):
                answer = "k3s version v1.33.5+k3s1 (simulator)\ngo version go1.24\n"
            case _:
                answer = ""
        return Completed(tuple(argv), 0, answer.encode(), "")

    def instead(self, argv: list[str], really: Really) -> Completed | None:
        """What a node of a certain kind answers to a command; None: what every node does.

        `really` runs words as programs of this machine, with the input and the time that the agent gave.
        """
        return None

    def units(self) -> list[tuple[str, ...]]:
        """The systemctl calls that change something."""
        return [call for call in self.calls if call[0] == "systemctl" and call[1] != "show"]
