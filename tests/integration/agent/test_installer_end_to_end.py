"""The installer against real HTTPS and HTTP servers and a file as the disk."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from agent_images import DELTA, HARDWARE, MIB, ContentServer, FakeImage
from fakes_agent import ControlServer, Refusal, make_plan, running

from agent.client import ControlClient, PinMismatch, PinnedTrust, Refused
from agent.errors import AgentError
from agent.hardware import Disk
from agent.installer.cmdline import InstallerConfig
from agent.installer.device import TargetDisk
from agent.installer.layout import parse_partitions
from agent.installer.occupant import MARKER_OFFSET, encode_marker
from agent.installer.run import Surroundings, install
from agent.proofs import fingerprint
from agent.protocol import OCCUPIED, InstallComplete, InstallStep, Occupant, Outcome, Verdict

pytestmark = pytest.mark.integration

SUPPORT = Path(__file__).parents[2] / "support"
DISK_BYTES = 40 * MIB + 512
OCCUPANT = Occupant(cluster="attic", node="pi-1", image_id="cafe0123", installation="1a" * 16)
"""What `make_plan` leaves on a disk."""


@pytest.fixture
def control(tmp_path: Path, content: ContentServer) -> Iterator[ControlServer]:
    server = ControlServer(tmp_path)
    server.plan = make_plan(content.image, content.url)
    with running(server):
        yield server


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Old data everywhere, with a partition table that a board would boot from."""
    path = tmp_path / "disk.img"
    data = bytearray(random.Random(9).randbytes(MIB) * (DISK_BYTES // MIB + 1))[:DISK_BYTES]
    data[446:462] = struct.pack("<B3xB3xII", 0x80, 0x0C, 2048, 4096)
    data[510:512] = b"\x55\xaa"
    path.write_bytes(data)
    return path


def expected_pieces(image: FakeImage) -> list[tuple[int, bytes]]:
    """What every mapped or patched byte must be at the end."""
    whole = bytearray(image.raw)
    for offset, data in DELTA:
        whole[offset : offset + len(data)] = data
    start = struct.unpack_from("<I", whole, 462 + 8)[0]
    struct.pack_into("<I", whole, 462 + 12, DISK_BYTES // MIB * MIB // 512 - start)
    whole[MARKER_OFFSET:MIB] = encode_marker(OCCUPANT)
    pieces = [(0, bytes(whole[:MIB]))]
    pieces += [(offset, bytes(whole[offset : offset + length])) for offset, length in image.chunks]
    pieces += [(offset, bytes(whole[offset : offset + len(data)])) for offset, data in DELTA]
    return pieces


def assert_installed(disk: Path, image: FakeImage) -> None:
    data = disk.read_bytes()
    assert len(data) == DISK_BYTES
    for offset, piece in expected_pieces(image):
        assert data[offset : offset + len(piece)] == piece, f"at {offset}"
    assert not any(data[-MIB:])


def run_installer(
    control: ControlServer,
    disk: Path,
    console: list[str] | None = None,
    *,
    say: Callable[[str], None] | None = None,
    is_supply_low: Callable[[], bool | None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
    keep_address: Callable[[], None] = lambda: None,
    serial: Callable[[], str] = lambda: "F1",
) -> InstallComplete:
    device = Disk(path=disk, kind="nvme", size_bytes=disk.stat().st_size, model="file", serial="F1")
    around = Surroundings(
        hardware=HARDWARE,
        boot_id="boot-1",
        find_disks=lambda: [replace(device, serial=serial())],
        say=say or (console if console is not None else []).append,
        sleep=lambda _: None,
        is_supply_low=is_supply_low,
        clock=clock,
        keep_address=keep_address,
    )
    config = InstallerConfig(control_urls=(control.url,), pin=control.pin, intent=1)
    client = ControlClient(config.control_urls, PinnedTrust(config.pin))
    try:
        return install(config, client, around)
    finally:
        client.close()


def test_board_is_installed_and_every_step_is_reported(
    control: ControlServer, content: ContentServer, disk: Path
) -> None:
    looked: list[int] = []
    report = run_installer(control, disk, keep_address=lambda: looked.append(len(control.progress)))
    assert_installed(disk, content.image)
    assert control.completed == [report]
    assert len(looked) >= 2 * len(content.image.chunks), "after each piece, or the lease might end"
    assert report.bytes_verified == report.bytes_written > 10 * MIB
    steps = list(dict.fromkeys(progress.step for progress in control.progress))
    assert steps == list(InstallStep)
    assert not any(progress.failed for progress in control.progress)
    assert content.faults.requests == 2  # the index, and one range that runs over the holes


def test_disk_that_is_another_one_when_it_is_opened_is_left_alone(
    control: ControlServer, content: ContentServer, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = disk.read_bytes()
    opened: list[Path] = []

    class Renamed(TargetDisk):
        """The bus was reset between the look at it and this."""

        def __init__(self, path: Path) -> None:
            super().__init__(path)
            opened.append(path)

    monkeypatch.setattr("agent.installer.run.TargetDisk", Renamed)
    with pytest.raises(AgentError, match="became another disk"):
        run_installer(control, disk, serial=lambda: "F2" if opened else "F1")
    assert disk.read_bytes() == before
    assert control.progress[-1].failed


def test_truncated_answers_are_resumed(control: ControlServer, content: ContentServer, disk: Path) -> None:
    content.faults.truncate_after, content.faults.truncations = 700_000, 3
    run_installer(control, disk)
    assert content.faults.truncations == 0
    assert_installed(disk, content.image)


def test_flipped_bit_is_noticed_and_fetched_again(
    control: ControlServer, content: ContentServer, disk: Path
) -> None:
    content.faults.flip_at, content.faults.flips = len(content.image.compressed) // 2, 2
    run_installer(control, disk)
    assert content.faults.flips == 0
    assert_installed(disk, content.image)


def test_server_that_restarts_in_the_middle_is_waited_for(
    control: ControlServer, content: ContentServer, disk: Path
) -> None:
    content.faults.failures = 0

    def fail_once(position: int) -> None:
        if position > len(content.image.compressed) // 3:
            content.faults.on_bytes = lambda _: None
            content.faults.failures = 3
            raise ConnectionResetError

    content.faults.on_bytes = fail_once
    run_installer(control, disk)
    assert content.faults.failures == 0
    assert_installed(disk, content.image)


def test_image_that_is_always_damaged_is_never_committed(
    control: ControlServer, content: ContentServer, disk: Path
) -> None:
    content.faults.flip_at, content.faults.flips = len(content.image.compressed) // 2, 10_000
    with pytest.raises(AgentError, match="12 attempts"):
        run_installer(control, disk)
    assert parse_partitions(disk.read_bytes()[:512]) == ()
    assert control.progress[-1].failed
    assert control.progress[-1].hint
    assert not control.completed


def test_image_that_is_gone_is_an_error_at_once(
    control: ControlServer, content: ContentServer, disk: Path
) -> None:
    content.faults.fail_status, content.faults.failures = 404, 1
    with pytest.raises(AgentError, match="404"):
        run_installer(control, disk)
    assert content.faults.requests == 1


def test_server_without_ranges_is_refused(control: ControlServer, content: ContentServer, disk: Path) -> None:
    content.faults.ignore_range = True
    with pytest.raises(AgentError, match="206 was expected"):
        run_installer(control, disk)


def test_closed_intent_stops_the_write(control: ControlServer, content: ContentServer, disk: Path) -> None:
    control.refuse_progress = Refusal(409, "intent-closed", "the intent was closed by an operator")
    gate = threading.Event()

    def wait_for_the_refusal(position: int) -> None:
        if position and not gate.is_set():
            # The first report is the question of FIND_DISK.
            control.wait_for(lambda: control.requests.count("POST /v1/install/progress") > 1)
            gate.set()

    content.faults.on_bytes = wait_for_the_refusal
    with pytest.raises(Refused, match="closed by an operator"):
        run_installer(control, disk)
    assert parse_partitions(disk.read_bytes()[:512]) == ()
    assert not control.completed


def test_failing_reports_do_not_stop_the_write(
    control: ControlServer, content: ContentServer, disk: Path
) -> None:
    control.refuse_progress = Refusal(500, "internal", "the database is locked")
    run_installer(control, disk)
    assert_installed(disk, content.image)


def test_pending_board_shows_its_fingerprint_and_asks_again(
    control: ControlServer, content: ContentServer, disk: Path
) -> None:
    control.verdicts = [Verdict(Outcome.PENDING, "first boot of a server", node="pi-1")] * 3
    console: list[str] = []
    run_installer(control, disk, console)
    assert_installed(disk, content.image)
    assert len({hello.key_sha256 for hello in control.hellos}) == 1
    assert len({hello.client_nonce for hello in control.hellos}) == 4
    waiting = [line for line in console if "waiting for approval" in line]
    assert len(waiting) == 1
    assert fingerprint(control.hellos[0].key_sha256) in waiting[0]


def test_rejected_board_leaves_the_disk_alone(control: ControlServer, disk: Path) -> None:
    before = disk.read_bytes()
    control.verdicts = [Verdict(Outcome.REJECTED, "quarantined")]
    with pytest.raises(AgentError, match="quarantined"):
        run_installer(control, disk)
    assert disk.read_bytes() == before


def test_occupied_disk_is_left_alone_until_a_person_approves(
    control: ControlServer, content: ContentServer, disk: Path
) -> None:
    run_installer(control, disk)
    control.progress.clear()
    before = hashlib.sha256(disk.read_bytes()).hexdigest()
    control.refuse_disk = [Refusal(409, OCCUPIED, "the disk holds pi-1 of attic", "Restore the state.")]
    admitted = Verdict(Outcome.ADMITTED, "declared", node="pi-1", token="install-token")
    pending = Verdict(Outcome.PENDING, "waits for approval", node="pi-1")
    control.verdicts = [admitted, pending, pending]
    control.hellos.clear()
    console: list[str] = []
    digests: list[str] = []

    def look(line: str) -> None:
        console.append(line)
        if "waiting for approval" in line:
            digests.append(hashlib.sha256(disk.read_bytes()).hexdigest())

    report = run_installer(control, disk, say=look)
    assert digests == [before]
    assert "the disk is left as it is: the disk holds pi-1 of attic" in console
    assert "Restore the state." in console
    assert len({hello.key_sha256 for hello in control.hellos}) == 1
    assert len(control.hellos) == 4
    assert control.progress[0].occupant == OCCUPANT
    assert control.completed[1:] == [report]
    assert_installed(disk, content.image)


def test_refused_disk_is_never_touched_if_nobody_approves(control: ControlServer, disk: Path) -> None:
    before = disk.read_bytes()
    control.refuse_disk = [Refusal(409, OCCUPIED, "the disk holds pi-1 of attic")]
    control.verdicts = [
        Verdict(Outcome.ADMITTED, "declared", node="pi-1", token="install-token"),
        Verdict(Outcome.PENDING, "waits for approval", node="pi-1"),
        Verdict(Outcome.REJECTED, "decommissioned"),
    ]
    with pytest.raises(AgentError, match="decommissioned"):
        run_installer(control, disk)
    assert disk.read_bytes() == before
    assert not any(progress.failed for progress in control.progress)


def test_disk_of_others_is_named_and_written(
    control: ControlServer, content: ContentServer, disk: Path
) -> None:
    run_installer(control, disk)
    assert control.progress[0].occupant is None
    assert control.progress[0].message.endswith(": a partition table that is not Bramble's")
    assert_installed(disk, content.image)


def test_plan_of_another_intent_leaves_the_disk_alone(control: ControlServer, disk: Path) -> None:
    before = disk.read_bytes()
    assert control.plan is not None
    control.plan = replace(control.plan, intent=2)
    with pytest.raises(AgentError, match="intent 2"):
        run_installer(control, disk)
    assert disk.read_bytes() == before


def test_wrong_pin_sends_nothing(control: ControlServer, disk: Path) -> None:
    control.pin = "00" * 32
    with pytest.raises(PinMismatch):
        run_installer(control, disk)
    assert control.requests == []


def test_power_cut_at_any_moment_leaves_no_partition_table_and_the_next_attempt_converges(
    control: ControlServer, content: ContentServer, disk: Path
) -> None:
    """SIGKILL while the image is served, at 12 places spread over the stream, then one run to the end."""
    total = len(content.image.compressed)
    places = [total * number // 13 for number in range(1, 13)]
    argv = [sys.executable, str(SUPPORT / "rehearse_install.py"), control.url, control.pin, "1", str(disk)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    for place in places:
        reached = threading.Event()
        resume = threading.Event()

        def hold(
            position: int,
            place: int = place,
            reached: threading.Event = reached,
            resume: threading.Event = resume,
        ) -> None:
            if position + 65536 > place:
                reached.set()
                resume.wait(120)

        content.faults.on_bytes = hold
        process = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL)
        try:
            assert reached.wait(120)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(30)
            resume.set()
        first_sector = disk.read_bytes()[:512]
        assert parse_partitions(first_sector) == ()
        assert not control.completed
    content.faults.on_bytes = lambda _: None
    subprocess.run(argv, env=environment, stdout=subprocess.DEVNULL, timeout=120, check=True)
    assert_installed(disk, content.image)
    assert len(control.completed) == 1


def test_nothing_is_written_under_a_brown_out(
    control: ControlServer, content: ContentServer, disk: Path
) -> None:
    before = disk.read_bytes()
    minutes = itertools.count()
    with pytest.raises(AgentError, match=r"below 4\.63 V for 10 minutes; nothing was written"):
        run_installer(control, disk, is_supply_low=lambda: True, clock=lambda: 60.0 * next(minutes))
    assert disk.read_bytes() == before
    assert control.progress[-1].failed
    assert "power supply" in control.progress[-1].hint
    looks, console = iter((True, True)), list[str]()
    run_installer(control, disk, console, is_supply_low=lambda: next(looks, False))
    said = [line for line in console if "supply voltage" in line]
    assert len(said) == 2
    assert "waits, nothing is written" in said[0]
    assert_installed(disk, content.image)
