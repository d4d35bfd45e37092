"""Switched outlets for virtual boards: what the `command` power driver runs, and what answers it.

Run as a program it is the command: `virtual_outlets.py SOCKET on|off|status NODE`. The boards live in the
process of the test, which serves the socket.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.board import VirtualBoard


@dataclass
class Outlets:
    """One outlet for each board, by name; what was done, in order."""

    socket: Path
    boards: Mapping[str, VirtualBoard]
    done: list[tuple[str, str]] = field(default_factory=list)

    def carry_out(self, action: str, name: str) -> str:
        board = self.boards[name]
        match action:
            case "on":
                if not board.is_on:
                    board.power_on()
            case "off":
                board.power_cut()
            case _:
                return "on" if board.is_on else "off"
        self.done.append((action, name))
        return ""


def declare_power(path: Path) -> dict[str, Any]:
    """`power` of a node in cluster.yaml."""
    words = [sys.executable, str(Path(__file__)), str(path)]
    return {
        "driver": "command",
        "off_for": "2s",
        **{key: [*words, key, "{node}"] for key in ("on", "off", "status")},
    }


@contextlib.contextmanager
def serving(path: Path, boards: Mapping[str, VirtualBoard]) -> Iterator[Outlets]:
    outlets = Outlets(path, boards)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen(8)
        thread = threading.Thread(target=_serve, args=(server, outlets), name="outlets", daemon=True)
        thread.start()
        try:
            yield outlets
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(20)


def _serve(server: socket.socket, outlets: Outlets) -> None:
    while True:
        try:
            caller, _ = server.accept()
        except OSError:
            return
        with caller, caller.makefile("r") as lines:
            action, _, name = lines.readline().strip().partition(" ")
            try:
                answer = outlets.carry_out(action, name)
            except Exception as error:  # the command says it, and the driver reports it
                answer = f"failed: {error}"
            caller.sendall(f"{answer}\n".encode())


def main(place: str, action: str, name: str) -> int:
    """Ask the test's process."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
        asked.settimeout(15)
        asked.connect(place)
        asked.sendall(f"{action} {name}\n".encode())
        with asked.makefile("r") as lines:
            answer = lines.readline().strip()
    if answer:
        print(answer)
    return 3 if answer.startswith("failed") else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
