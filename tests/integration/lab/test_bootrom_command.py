"""`bramble lab bootrom` and crowds of light boards against the real boot server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fleet.boards import BoardModel, MacAddress, Serial
from fleet.spec.model import DhcpMode
from lab.bootloader.profile import PI4_2021, PI5_2025, BoardIdentity, EepromProfile
from lab.cli_bootrom import bootrom
from lab.light_boards import LightResult, run_light_boards
from pxe.boot.table import BootTable, BootTree, NodeBootState
from pxe.events import BoardEvent
from pxe.server import PxeConfig, PxeServer

pytestmark = pytest.mark.integration

LOOPBACK = IPv4Address("127.0.0.1")
SERIAL = "0badcafe"
COUNT = 48


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root" / SERIAL
    root.mkdir(parents=True)
    (tmp_path / "state").mkdir()
    (root / "config.txt").write_text("kernel=kernel8.img\ninitramfs installer.img followkernel\n")
    (root / "cmdline.txt").write_text("console=serial0,115200 bramble.intent=1\n")
    (root / "kernel8.img").write_bytes(os.urandom(300_000))
    (root / "installer.img").write_bytes(os.urandom(500_000))
    for name in ("start4.elf", "fixup4.dat", "bcm2711-rpi-4-b.dtb", "bcm2712-rpi-5-b.dtb"):
        (root / name).write_bytes(b"firmware")
    return root


@pytest.fixture
def port(tree: Path, tmp_path: Path) -> Iterator[int]:
    """Port of Bramble's own server, as a process of its own."""
    argv = [sys.executable, "-m", "benchmarks.boot_server", str(tmp_path / "root"), str(tmp_path / "state")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as server:
        assert server.stdout is not None
        try:
            yield json.loads(server.stdout.readline())["tftp"]
        finally:
            server.terminate()
            server.wait(60)


def _run(*words: str) -> Result:
    return CliRunner().invoke(bootrom, ["--serial", SERIAL, *words])


@pytest.mark.parametrize("profile", ["pi4-2019", "pi4-2021", "pi4-2026", "pi5-2023", "pi5-2026"])
def test_every_era_fetches_from_the_real_server(port: int, profile: str) -> None:
    done = _run("--profile", profile, "--server", f"127.0.0.1:{port}", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]

    assert done.exit_code == 0, done.output
    assert lines[-1]["booted"] is True
    assert lines[-1]["kernel_bytes"] == 300_000
    assert lines[-1]["initramfs_bytes"] == 500_000
    assert lines[-1]["cmdline"] == "console=serial0,115200 bramble.intent=1"
    assert any(line["kind"] == "file-missing" and "pieeprom.sig" in line["text"] for line in lines)


def test_the_story_is_told_for_people_too(port: int) -> None:
    done = _run("--profile", "pi5-2025", "--server", f"127.0.0.1:{port}", "--set", "BOOT_ORDR=0xf2")
    assert done.exit_code == 0
    assert "BOOT_ORDR is no property that the firmware knows" in done.stdout
    assert f"{SERIAL}//kernel8.img: 300,000 bytes" in done.stdout
    assert "boots kernel8.img (300,000 bytes) from NETWORK" in done.stdout


def test_a_board_that_is_not_for_the_server_boots_nothing_and_says_so(port: int) -> None:
    done = CliRunner().invoke(
        bootrom, ["--profile", "pi5-2025", "--serial", "00000001", "--server", f"127.0.0.1:{port}"]
    )
    assert done.exit_code == 1
    assert "nothing to boot" in done.stdout
    assert "config.txt not found" in done.stdout


def test_faults_are_played_on_the_real_server(port: int) -> None:
    words = ("--profile", "pi5-2025", "--server", f"127.0.0.1:{port}", "--json")
    mended = _run(*words, "--fault", "lose:ack:3", "--fault", "double:data:every7")
    assert mended.exit_code == 0
    cut = _run(*words, "--fault", "cut:data:100")
    assert cut.exit_code == 1
    assert json.loads(cut.stdout.splitlines()[-1])["reason"] == "the plug was pulled"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((), "say where the server is"),
        (("--server", "10.0.0.1", "--interface", "eth0"), "say where the server is"),
        (("--server", "boot.example.org"), "is no address"),
        (("--server", "127.0.0.1", "--fault", "lose:cake:1"), "is no fault"),
        (("--server", "127.0.0.1", "--model", "pi4"), "has no firmware pi5-2025"),
        (("--interface", "no-such-interface"), "can not be used"),
        (("--interface", "lo", "--disk", "nvme:/no/such"), "is no disk"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_explained(words: tuple[str, ...], problem: str) -> None:
    done = _run("--profile", "pi5-2025", *words)
    assert done.exit_code != 0
    assert problem in str(done.exception)


# --- crowds


def _crowd(count: int) -> list[BoardIdentity]:
    return [
        BoardIdentity(
            model=BoardModel.PI5,
            serial=Serial.parse(f"{0x0C000000 + number:08x}"),
            mac=MacAddress.parse(f"2c:cf:67:01:{number >> 8:02x}:{number & 0xFF:02x}"),
            revision=0xD04170,
        )
        for number in range(count)
    ]


def _table(tree: Path) -> BootTable:
    nodes = tuple(
        NodeBootState(
            name=f"node-{number}",
            serial=board.serial,
            install_intent=1,
            tree=BootTree(root=tree, rendered={"cmdline.txt": b"quiet\n"}),
        )
        for number, board in enumerate(_crowd(COUNT))
    )
    return BootTable(nodes=nodes)


def _storm(
    tree: Path, state: Path, profile: EepromProfile, *, late_s: float = 0.0
) -> tuple[list[LightResult], list[BoardEvent]]:
    events: list[BoardEvent] = []

    async def scene() -> list[LightResult]:
        config = PxeConfig(
            server_address=LOOPBACK,
            subnet=IPv4Network("127.0.0.0/8"),
            dhcp=DhcpMode.OFF,
            state_dir=state,
            tftp_port=0,
            http_port=0,
        )
        server = PxeServer(config, events.append, _table(tree))
        server.bind()  # the port is known; nobody answers before the server runs
        boards = asyncio.create_task(
            asyncio.to_thread(
                run_light_boards,
                _crowd(COUNT),
                profile,
                server=LOOPBACK,
                sources=[IPv4Address(f"127.1.0.{number + 1}") for number in range(COUNT)],
                tftp_port=server.ports.tftp,
                start_within_s=0.2,
                timeout_s=60.0,
            )
        )
        await asyncio.sleep(late_s)
        running = asyncio.create_task(server.run())
        try:
            return await boards
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    return asyncio.run(scene()), events


@pytest.mark.parametrize("profile", [PI5_2025], ids=lambda profile: profile.name)
def test_a_crowd_of_boards_boots_at_once(tree: Path, tmp_path: Path, profile: EepromProfile) -> None:
    results, _ = _storm(tree, tmp_path / "state", profile)
    assert [result.error for result in results if not result.booted] == []
    assert len(results) == COUNT
    # config.txt twice, the kernel and the initramfs once, and small files: every byte was sent.
    assert all(result.received_bytes > 800_000 for result in results)
    assert len({result.received_bytes for result in results}) == 1
    assert all(result.files == results[0].files for result in results)


def test_boards_that_were_there_before_the_server_are_found_waiting(tree: Path, tmp_path: Path) -> None:
    results, _ = _storm(tree, tmp_path / "state", PI5_2025, late_s=1.5)
    assert all(result.booted for result in results)


def test_boards_that_nobody_answers_are_reported_when_their_time_is_over() -> None:
    started = time.monotonic()
    results = run_light_boards(_crowd(4), PI4_2021, server=LOOPBACK, tftp_port=1, timeout_s=1.0)
    assert [(result.booted, result.finished) for result in results] == [(False, None)] * 4
    assert time.monotonic() - started < 30.0
