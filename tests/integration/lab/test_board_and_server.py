"""The two halves of a network boot against each other: the emulated firmware, the real server, a real tap."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import time
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from fakes_lab import SERVER, in_private_network
from fakes_pxe import running

from fleet.boards import BoardModel, MacAddress, Serial
from fleet.spec.model import DhcpMode
from lab.bootloader.files import BootFiles, ModeFailedError
from lab.bootloader.profile import BoardIdentity, default_profile
from lab.events import EventKind, Notice
from lab.netclient import boot_from_network
from lab.network import BRIDGE, SERVER_INTERFACE, add_tap
from lab.tap import Tap
from pxe.boot.table import BootTable, BootTree, NodeBootState
from pxe.events import BoardEvent
from pxe.server import PxeConfig, PxeServer

pytestmark = pytest.mark.integration

SERIAL = Serial.parse("10000000d03114aa")
MAC = MacAddress.parse("2c:cf:67:12:34:56")
ADDRESS = IPv4Address("10.77.0.60")


def _network_mode(model: BoardModel) -> tuple[BootFiles | str, list[Notice], float]:
    board = BoardIdentity(model=model, serial=SERIAL, mac=MAC, revision=model.revision_codes[-1])
    notices: list[Notice] = []
    wake_fd = os.eventfd(0)
    try:
        with Tap("tap0") as tap:
            tap.wait_for_link()
            started = time.monotonic()
            files = boot_from_network(
                tap, board, default_profile(model), wake_fd=wake_fd, on_notice=notices.append
            )
    except ModeFailedError as error:
        return str(error), notices, time.monotonic() - started
    finally:
        os.close(wake_fd)
    assert files is not None
    return files, notices, time.monotonic() - started


def _against_pxe(
    state_dir: Path, tree: Path, model: BoardModel, intent: int | None
) -> tuple[str, list[str], float, str, int]:
    """Returns: outcome, notices as text, seconds, digest of the initramfs, number of the server's events."""
    add_tap("tap0")
    events: list[BoardEvent] = []

    async def scene() -> tuple[BootFiles | str, list[Notice], float]:
        rendered = {
            "config.txt": b"kernel=kernel8.img\ninitramfs big.img followkernel\n",
            "cmdline.txt": b"console=serial0,115200 bramble.intent=1\n",
        }
        node = NodeBootState(
            name="node-1",
            serial=SERIAL,
            address=ADDRESS,
            install_intent=intent,
            tree=BootTree(root=tree, rendered=rendered) if intent else BootTree(),
        )
        config = PxeConfig(
            server_address=SERVER,
            subnet=SERVER_INTERFACE.network,
            dhcp=DhcpMode.FULL,
            state_dir=state_dir,
            interface=BRIDGE,
        )
        async with running(PxeServer(config, events.append, BootTable(nodes=(node,)))):
            return await asyncio.to_thread(_network_mode, model)

    outcome, notices, seconds = asyncio.run(scene())
    digest = ""
    if isinstance(outcome, BootFiles):
        digest = hashlib.sha256(outcome.initramfs or b"").hexdigest()
        outcome = outcome.cmdline
    return outcome, [f"{notice.kind} {notice.text}" for notice in notices], seconds, digest, len(events)


@pytest.mark.parametrize("model", [BoardModel.PI4, BoardModel.PI5])
def test_a_board_with_an_open_intent_fetches_its_files(tmp_path: Path, model: BoardModel) -> None:
    tree, state = tmp_path / "tree", tmp_path / "state"
    tree.mkdir()
    state.mkdir()
    initramfs = secrets.token_bytes(16_000_000)
    (tree / "kernel8.img").write_bytes(bytes(1_000_000))
    (tree / "big.img").write_bytes(initramfs)
    for name in ("start4.elf", "fixup4.dat", *model.dtb_names):
        (tree / name).write_bytes(b"firmware")

    outcome, notices, _, digest, events = in_private_network(_against_pxe, state, tree, model, 1)

    assert outcome == "console=serial0,115200 bramble.intent=1"
    assert digest == hashlib.sha256(initramfs).hexdigest()
    assert f"{EventKind.DHCP_BOUND} {ADDRESS} from {SERVER}, TFTP {SERVER}" in notices
    assert events > 0


@pytest.mark.parametrize("model", [BoardModel.PI4, BoardModel.PI5])
def test_a_board_without_an_intent_is_at_its_next_mode_at_once(tmp_path: Path, model: BoardModel) -> None:
    outcome, notices, seconds, _, _ = in_private_network(_against_pxe, tmp_path, tmp_path, model, None)

    assert "not found" in outcome
    assert not any(text.startswith(EventKind.FILE_FETCHED) for text in notices)
    assert sum(text.startswith(EventKind.DHCP_DISCOVER) for text in notices) == 1
    assert seconds < 20.0  # the firmware gives a file up after 30 s; a DISCOVER is repeated after 4 s
