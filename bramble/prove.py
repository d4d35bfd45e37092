"""Boot an image on a virtual board before it goes onto a card: on a copy, to the end of its first boot.

The board's bootloader is emulated and reads the copy as it would read the card; then the image's own kernel
and initramfs run in QEMU. A witness in the initramfs (in memory only) reports what became of the settings.
What is shown is that the image boots and configures itself; not that the vendor's kernel drives the board's
hardware, which a virtual board does not have.
"""

from __future__ import annotations

import dataclasses
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bramble.verdict import Expectation, Line, Outcome, judge
from fleet.boards import BoardModel, DiskKind, MacAddress, Serial
from imagebuilder.cpio import encode_archive, pad, regular
from imagebuilder.disk.sparse import copy_sparse
from imagebuilder.preflight import open_evidence
from imagebuilder.store import require_room
from lab import raspi4b
from lab.board import BoardConfig, VirtualBoard
from lab.bootloader.files import BootFiles
from lab.disk import VirtualDisk
from lab.events import BoardEvent, EventKind
from lab.qemu import MachineKind, UserNetwork
from lab.witness import LOGIN, complaints, find_dead_end, parse_report, report_end, witness_files

DISK_BYTES: Final = 8 * 2**30
"""Of the board's disk, sparse; larger for larger images. A power of two, as an SD card has to be."""
MEMORY_MIB: Final = 1536
TIMEOUT_S: Final = {MachineKind.VIRT: 900.0, MachineKind.RASPI4B: 1800.0}
"""About twenty times what a boot takes on two idle cores (35 s and 100 s, measured), for they may be busy."""
_WAIT_S: Final = 0.5
_ENDED: Final = frozenset({EventKind.PANIC, EventKind.STUCK, EventKind.BROKEN, EventKind.POWERED_OFF})


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to prove.

    Attributes:
        file: the raw image; it is not written to.
        model: the board.
        serial, mac: its identity.
        disk: the kind of disk that it boots from.
        delta: a node's own bytes, put onto the copy: (offset, bytes).
        network: what the board's port is plugged into.
        expected: what the node must be in the end; None: that it boots is enough.
    """

    file: Path
    model: BoardModel
    serial: Serial
    mac: MacAddress
    disk: DiskKind
    network: UserNetwork
    machine: MachineKind = MachineKind.VIRT
    timeout_s: float | None = None
    delta: tuple[tuple[int, bytes], ...] = ()
    expected: Expectation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """How it went. ``reason`` says why not, empty where it is proven."""

    proven: bool
    reason: str
    lines: tuple[Line, ...]
    seconds: float
    boots: int
    complaints: tuple[str, ...]
    console: str

    def to_json(self) -> dict[str, Any]:
        return {
            "proven": self.proven,
            "reason": self.reason,
            "seconds": round(self.seconds, 1),
            "boots": self.boots,
            "lines": [line.to_json() for line in self.lines],
            "complaints": list(self.complaints),
        }


def prove(
    request: Request, *, work: Path | None = None, on_event: Callable[[BoardEvent], None] | None = None
) -> Proof:
    """Boot the image to the end of its first boot and judge.

    Args:
        request: what to prove.
        work: where the copy and the logs go and stay; None: a temporary directory that is removed.
        on_event: called for each event of the board, on the board's thread.

    Raises:
        NotUnderstood: the file is no image of a known system.
        LabError: this machine cannot run virtual boards.
        NoSpace: the copy does not fit.
    """
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
        return _prove(request, work, on_event)
    with tempfile.TemporaryDirectory(prefix="bramble-proof-") as scratch:
        return _prove(request, Path(scratch), on_event)


def _prove(request: Request, work: Path, on_event: Callable[[BoardEvent], None] | None) -> Proof:
    started = time.monotonic()
    with open_evidence(request.file, (request.model,)) as evidence:
        board_facts = evidence.facts.board(request.model)
        bootargs = evidence.bootargs.get(board_facts.device_tree or "", "")
    if board_facts.problem is not None:
        return _unproven(f"a {request.model.title} does not boot: {board_facts.problem}", started)
    disk = _copy(request, work)
    nonce = secrets.token_hex(8)
    witness = encode_archive([regular(name, data) for name, data in witness_files(nonce).items()], 0)
    is_pi4 = request.machine is MachineKind.RASPI4B

    def amend(files: BootFiles) -> BootFiles:
        """What the firmware would do (the device tree's own words come first), and our witness.

        The console that is named last is the one that the system writes to.
        """
        extra = f"{raspi4b.EXTRA_CMDLINE} " if is_pi4 else ""
        words = f"{bootargs} {files.cmdline} {extra}console=ttyAMA0,115200"
        initramfs = None if files.initramfs is None else pad(files.initramfs) + witness
        return dataclasses.replace(files, cmdline=settle_cgroups(words), initramfs=initramfs)

    config = BoardConfig(
        name="proof",
        model=request.model,
        serial=request.serial,
        mac=request.mac,
        tap=None,
        disks=(disk,),
        memory_mib=raspi4b.MEMORY_MIB if is_pi4 else MEMORY_MIB,
        cpu_count=raspi4b.CPU_COUNT if is_pi4 else 2,
        kind=request.machine,
        user_network=request.network,
        amend=amend,
    )
    with VirtualBoard(config, run_dir=work / "board", on_event=on_event) as board:
        board.power_on()
        reason = _wait(board, nonce, started + (request.timeout_s or TIMEOUT_S[request.machine]))
        board.power_cut()
        console = (work / "board" / "console.log").read_text("utf-8", "replace").replace("\r", "")
        boots = sum(event.kind is EventKind.KERNEL_STARTED for event in board.events)
    lines = judge(parse_report(console, nonce), request.expected) if reason is None else ()
    failed = [line.what for line in lines if line.outcome is Outcome.FAILED]
    if failed:
        reason = f"it booted; not as wanted: {', '.join(dict.fromkeys(failed))}"
    return Proof(
        proven=reason is None,
        reason=reason or "",
        lines=lines,
        seconds=time.monotonic() - started,
        boots=boots,
        complaints=complaints(console),
        console="\n".join(console.splitlines()[-30:]),
    )


def settle_cgroups(cmdline: str) -> str:
    """The words without each ``cgroup_disable=X`` that a later ``cgroup_enable=X`` revokes.

    The vendor's kernel decides so; a mainline kernel knows only the first word and would keep the controller
    off (seen with Debian's 6.12).
    """
    words = cmdline.split()

    def is_revoked(at: int) -> bool:
        key, _, value = words[at].partition("=")
        return key == "cgroup_disable" and f"cgroup_enable={value}" in words[at + 1 :]

    return " ".join(word for at, word in enumerate(words) if not is_revoked(at))


def _copy(request: Request, work: Path) -> VirtualDisk:
    path = work / "disk.img"
    require_room(work, request.file.stat().st_blocks * 512 + 2**30)
    copy_sparse(request.file, path)
    size = DISK_BYTES
    while size < path.stat().st_size:
        size *= 2
    os.truncate(path, size)
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for offset, data in request.delta:
            os.pwrite(descriptor, data, offset)
    finally:
        os.close(descriptor)
    return VirtualDisk(kind=request.disk, path=path, size_bytes=size, serial="PROOF")


def _wait(board: VirtualBoard, nonce: str, deadline: float) -> str | None:
    """Wait for the report; None when it is there, else why it will not come."""
    while True:
        found = board.console.wait_for(report_end(nonce), _WAIT_S)
        if found:
            return None
        dead_end = find_dead_end(board.console.tail(400))
        if dead_end is not None:
            return dead_end
        for event in board.events:
            if event.kind in _ENDED:
                return f"{event.kind}: {event.text}"
        if time.monotonic() > deadline:
            login = re.search(LOGIN, board.console.tail(400), re.M)
            return (
                "it asks for a login, and its initramfs does not let a witness in: nothing more can be told"
                if login
                else "the first boot did not end in time"
            )


def _unproven(reason: str, started: float) -> Proof:
    return Proof(
        proven=False,
        reason=reason,
        lines=(),
        seconds=time.monotonic() - started,
        boots=0,
        complaints=(),
        console="",
    )
