"""A cluster of virtual boards, served by a real `bramble serve` on the lab's private network.

What the demo shows and the end-to-end tests assert. The server runs as its own process with its own state
directory, as it would for a user; the boards are wired to it by taps. Nothing outside the work directory is
touched.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from bramble.paths import STATE_VARIABLE
from fleet.admin_client import FleetReader
from fleet.boards import DiskKind, Serial
from fleet.spec.model import ClusterSpec, NodeSpec
from lab.board import DEFAULT_MEMORY_MIB, BoardConfig, VirtualBoard
from lab.disk import VirtualDisk
from lab.errors import LabError, WaitTimeoutError
from lab.events import BoardEvent
from lab.network import add_tap, remove_tap
from lab.runner import require_tool

DISK_BYTES: Final = 8 * 2**30
"""Of each virtual disk; sparse, and an SD card has to be a power of two."""
POLL_S: Final = 0.3
START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 20.0
ENDED_BADLY: Final = frozenset({"quarantined", "failed-joining", "failed-first-boot"})
"""States in which waiting for another one is pointless."""


class Rehearsal:
    """The server and the boards of one declared cluster. A context manager: leaving it ends all of them.

    Args:
        spec: the cluster; its interface is the lab's bridge.
        work: an empty directory for state, disks and logs.
        on_event: called for every event of a board, on that board's thread.
        environment: what the server's differs in from ours.
    """

    def __init__(
        self,
        spec: ClusterSpec,
        work: Path,
        *,
        on_event: Callable[[BoardEvent], None] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.spec = spec
        self.work = work
        self._on_event = on_event
        self._environment = dict(environment or {})
        self._state = work / "state"
        self._server: subprocess.Popen[bytes] | None = None
        self.boards: dict[str, VirtualBoard] = {}
        self.admin = FleetReader(self._state / spec.name)
        self.peak_rss_bytes = 0

    def __enter__(self) -> Self:
        self.work.mkdir(parents=True, exist_ok=True)
        try:
            self.start_server()
        except BaseException:
            self.stop_server()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for board in self.boards.values():
                board.close()
                if board.config.tap is not None:
                    remove_tap(board.config.tap)
        finally:
            self.stop_server()

    # --- the server

    @property
    def server_log(self) -> Path:
        return self.work / "serve.log"

    def start_server(self) -> None:
        """Start `bramble serve` and wait until it answers.

        Raises:
            LabError: it ended, or did not answer in time; the text carries the end of its log.
        """
        own = {STATE_VARIABLE: str(self._state), "PYTHONUNBUFFERED": "1"}
        environment = {**os.environ, **self._environment, **own}
        # The server must not outlive a rehearsal that was killed.
        argv = [require_tool("setpriv"), "--pdeathsig", "TERM", "--"]
        argv += [sys.executable, "-m", "bramble.cli", "-v", "serve", str(self.spec.path)]
        with self.server_log.open("ab") as log:
            self._server = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            if self._server.poll() is not None:
                raise LabError(f"bramble serve ended with {self._server.returncode}:\n{self._log_tail()}")
            if self._answers():
                return
            if time.monotonic() > deadline:
                raise LabError(f"bramble serve does not answer:\n{self._log_tail()}")
            time.sleep(POLL_S)

    def _answers(self) -> bool:
        """The socket appears when every service is up; before that the store may be half made."""
        return (self._state / self.spec.name / "control.sock").exists() and bool(self.admin.nodes()["live"])

    def stop_server(self) -> int | None:
        """Ask the server to end and wait for it; its exit status, None where none was running."""
        server, self._server = self._server, None
        if server is None:
            return None
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
        try:
            return server.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
            raise LabError(f"bramble serve did not stop in {STOP_TIMEOUT_S:g} s") from None

    def server_rss_bytes(self) -> int:
        """Resident memory of the server's processes together; pages that they share count for each."""
        return 0 if self._server is None else sum(map(_rss_bytes, process_tree(self._server.pid)))

    def _log_tail(self) -> str:
        return "\n".join(self.server_log.read_text("utf-8", "replace").splitlines()[-20:])

    # --- the boards

    def add_board(
        self,
        node: NodeSpec,
        *,
        disks: tuple[VirtualDisk, ...] | None = None,
        memory_mib: int = DEFAULT_MEMORY_MIB,
    ) -> VirtualBoard:
        """Put a node's board on the table, wired up and off, with blank disks."""
        if node.serial is None or node.mac is None:
            raise LabError(f"{node.name}: a virtual board needs a serial and a MAC address in cluster.yaml")
        return self.add_stranger(node.name, node, serial=node.serial, disks=disks, memory_mib=memory_mib)

    def add_stranger(
        self,
        name: str,
        like: NodeSpec,
        *,
        serial: Serial,
        disks: tuple[VirtualDisk, ...] | None = None,
        memory_mib: int = DEFAULT_MEMORY_MIB,
    ) -> VirtualBoard:
        """Put a board with another serial on the table; with a node's own serial it is that node's board."""
        if like.mac is None:
            raise LabError(f"{like.name}: a virtual board needs a MAC address in cluster.yaml")
        tap = f"tap{len(self.boards)}"
        add_tap(tap)
        config = BoardConfig(
            name=name,
            model=like.board,
            serial=serial,
            mac=like.mac,
            tap=tap,
            disks=disks if disks is not None else (self.disk(name, like.disk.kind),),
            memory_mib=memory_mib,
        )
        board = VirtualBoard(
            config, run_dir=self.work / name, on_event=self._on_event, dtb_cache=self.work / "dtb"
        )
        self.boards[name] = board
        return board

    def disk(self, board: str, kind: DiskKind, number: int = 0) -> VirtualDisk:
        """A blank disk for a board."""
        return VirtualDisk(
            kind=kind,
            path=self.work / board / f"{kind.value}{number}.img",
            size_bytes=DISK_BYTES,
            serial=f"LAB{number}{board}"[:20],
        )

    # --- what is true

    def rows(self) -> dict[str, Mapping[str, Any]]:
        """The rows of `bramble nodes --json`, by node."""
        self.peak_rss_bytes = max(self.peak_rss_bytes, self.server_rss_bytes())
        return {node["name"]: node for node in self.admin.nodes()["nodes"]}

    def node(self, name: str) -> Mapping[str, Any]:
        """One row of `bramble nodes --json`."""
        return self.rows()[name]

    def timeline(self, name: str) -> list[str]:
        """The texts of a node's or a held board's timeline, oldest first."""
        return [event["text"] for event in self.admin.timeline(name)["events"]]

    def count_installs(self, name: str) -> int:
        """How often a node was installed."""
        return sum(line.startswith("installed and verified") for line in self.timeline(name))

    def disk_is_blank(self, board: str) -> bool:
        """Whether nothing was ever written to a board's first disk."""
        return self.boards[board].config.disks[0].path.stat().st_blocks == 0

    def wait_for_text(self, name: str, part: str, *, timeout_s: float) -> None:
        """Wait for a line of a node's timeline that contains `part`."""
        self.wait_for(
            name,
            lambda _row: any(part in line for line in self.timeline(name)),
            f"a line with {part!r}",
            timeout_s=timeout_s,
        )

    def wait_for_held(self, serial: str, *, timeout_s: float) -> Mapping[str, Any]:
        """Wait for a held board whose serial ends so.

        Raises:
            WaitTimeoutError: not in time.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for board in self.admin.nodes()["held"]:
                if str(board["serial"]).endswith(serial):
                    found: Mapping[str, Any] = board
                    return found
            time.sleep(POLL_S)
        raise WaitTimeoutError(f"no held board with serial …{serial} within {timeout_s:g} s")

    def wait_for_state(self, name: str, *states: str, timeout_s: float) -> Mapping[str, Any]:
        """Wait until a node is in one of these states.

        Raises:
            WaitTimeoutError: not in time, or it ended in a state that does not lead there; with its timeline.
        """
        return self.wait_for(
            name,
            lambda node: node["state"] in states,
            f"the state {' or '.join(states)}",
            timeout_s=timeout_s,
            give_up=ENDED_BADLY - set(states),
        )

    def wait_for(
        self,
        name: str,
        is_reached: Callable[[Mapping[str, Any]], bool],
        what: str,
        *,
        timeout_s: float,
        give_up: frozenset[str] = frozenset(),
    ) -> Mapping[str, Any]:
        """Wait until something is true of a node's row.

        Raises:
            WaitTimeoutError: not in time, or the node is in one of the states `give_up`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            node = self.node(name)
            if is_reached(node):
                return node
            if time.monotonic() > deadline or node["state"] in give_up:
                raise WaitTimeoutError(self.report(name, what))
            time.sleep(POLL_S)

    def report(self, name: str, what: str) -> str:
        """Why a node is not where it should be: its state, its timeline, and its board's console."""
        node = self.node(name)
        lines = "\n".join(f"  {line}" for line in self.timeline(name)[-25:])
        console = self.boards[name].console.tail() if name in self.boards else ""
        return (
            f"{name} did not reach {what}, it is {node['state']} ({node['detail']}). Timeline:\n{lines}\n"
            f"Console:\n{console}"
        )


def process_tree(pid: int) -> list[int]:
    """The process and all its descendants that are alive; a child belongs to the thread that started it.

    One that was forked and runs no program of its own yet is left out: its pages are its parent's, and would
    count twice in that moment.
    """
    found = [pid]
    for parent in found:
        running = _command_line(parent)
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                numbers = [int(child) for child in children.read_text("ascii").split()]
            except OSError:
                continue
            found += [child for child in numbers if _command_line(child) != running]
    return found


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _rss_bytes(pid: int) -> int:
    """VmRSS of a process; 0 where it is gone. Source: proc(5), /proc/pid/statm, field 2, pages."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
