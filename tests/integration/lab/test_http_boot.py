"""HTTP boot from end to end: our boot.img, signed by us, from the real server, to the emulated bootloader,
whose TCP meets Linux's here, over a tap in a private network."""

from __future__ import annotations

import asyncio
import secrets
import time
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from fakes_lab import SERVER, in_private_network
from fakes_pxe import running

from fleet.boards import BoardModel, MacAddress, Serial
from fleet.spec.model import DhcpMode
from imagebuilder.boot_image.pack import make_boot_image
from imagebuilder.boot_image.sign import load_signing_key, make_signing_key, render_signature
from lab.bootloader.files import BootFiles
from lab.bootloader.machine import Bootrom, Hardware
from lab.bootloader.profile import CM4, PI4_2026, PI5_2025, BoardIdentity, EepromProfile
from lab.bootloader.signature import RsaPublicKey
from lab.events import Notice
from lab.netclient import run_bootrom
from lab.network import BRIDGE, SERVER_INTERFACE, add_tap
from lab.tap import Tap
from pxe.boot.table import BootTable, BootTree, NodeBootState
from pxe.events import BoardEvent, BootFileMissing, TransferDone
from pxe.server import PxeConfig, PxeServer

pytestmark = pytest.mark.integration

SERIAL = Serial.parse("10000000d03114aa")
MAC = MacAddress.parse("2c:cf:67:12:34:56")
ADDRESS = IPv4Address("10.77.0.60")
MODELS = {"cm4": BoardModel.CM4, "pi4-2026": BoardModel.PI4, "pi5-2025": BoardModel.PI5}


def _make(directory: Path, model: BoardModel) -> RsaPublicKey:
    """boot.img of 20 MB with a random initramfs, and boot.sig; returns the public key."""
    make_signing_key(directory / "key.pem")
    key = load_signing_key(directory / "key.pem")
    installer = directory / "installer"
    installer.write_bytes(secrets.token_bytes(20_000_000))
    image = make_boot_image(
        {
            "config.txt": b"kernel=kernel8.img\ninitramfs installer.img followkernel\n",
            "cmdline.txt": b"bramble.intent=1\n",
            "kernel8.img": bytes(1_000_000),
            "installer.img": installer,
            "start4.elf": b"firmware",
            **{name: b"dtb" for name in model.dtb_names},
        },
        model,
        directory / "boot.img",
    )
    (directory / "boot.sig").write_text(render_signature(image.sha256, 1, key))
    numbers = key.public_key().public_numbers()
    return RsaPublicKey(numbers.n, numbers.e)


def _power_on(hardware: Hardware) -> tuple[BootFiles | str, list[str]]:
    told: list[str] = []

    def on_notice(notice: Notice) -> None:
        told.append(f"{notice.kind} {notice.text}")

    with Tap("tap0") as tap:
        tap.wait_for_link()
        now = time.monotonic()
        rom = Bootrom(hardware, random_bits=secrets.randbits, now=now)
        assert run_bootrom(tap, rom, on_notice=on_notice, until=now + 40), told
    return (rom.outcome if isinstance(rom.outcome, BootFiles) else str(rom.outcome)), told


def _scene(
    directory: Path, profile: EepromProfile, intent: int | None, mac: str
) -> tuple[str, str, bool, list[str], list[tuple[str, str]]]:
    """Returns: command line or error, source, whether the initramfs is whole, notices, events."""
    add_tap("tap0")
    events: list[BoardEvent] = []
    model = MODELS[profile.name]
    key = _make(directory, model)
    extra = {name: directory / name for name in ("boot.img", "boot.sig")}
    node = NodeBootState(
        name="node-1",
        serial=SERIAL,
        mac=MacAddress.parse(mac),
        address=ADDRESS,
        install_intent=intent,
        reason="installed",
        tree=BootTree(extra=extra),
    )
    board = BoardIdentity(model=model, serial=SERIAL, mac=MAC, revision=model.revision_codes[-1])
    hardware = Hardware(
        board=board,
        profile=profile,
        eeprom_config=(
            f"BOOT_ORDER=0xe7\nHTTP_HOST={SERVER}\nHTTP_PORT=7080\nHTTP_PATH=boot/{SERIAL.prefix}\n"
        ).encode(),
        public_key=key,
        link_up_s=0.1,
    )

    async def run() -> tuple[BootFiles | str, list[str]]:
        config = PxeConfig(
            server_address=SERVER,
            subnet=SERVER_INTERFACE.network,
            dhcp=DhcpMode.FULL,
            state_dir=directory,
            interface=BRIDGE,
        )
        async with running(PxeServer(config, events.append, BootTable(nodes=(node,)))):
            return await asyncio.to_thread(_power_on, hardware)

    outcome, told = asyncio.run(run())
    said = [(event.kind, event.name) for event in events if isinstance(event, BootFileMissing | TransferDone)]
    if isinstance(outcome, str):
        return outcome, "", False, told, said
    whole = outcome.initramfs == (directory / "installer").read_bytes()
    return outcome.cmdline, outcome.source.name, whole, told, said


@pytest.mark.parametrize("profile", [PI4_2026, CM4, PI5_2025], ids=lambda profile: profile.name)
def test_a_board_with_an_open_intent_boots_its_signed_image(tmp_path: Path, profile: EepromProfile) -> None:
    cmdline, source, whole, told, events = in_private_network(_scene, tmp_path, profile, 1, str(MAC))

    assert (cmdline, source, whole) == ("bramble.intent=1", "HTTP", True), told
    assert events == [("transfer-done", "boot.sig"), ("transfer-done", "boot.img")]


@pytest.mark.parametrize("profile", [PI5_2025], ids=lambda profile: profile.name)
def test_an_installed_board_gets_nothing_over_http(tmp_path: Path, profile: EepromProfile) -> None:
    outcome, _, _, told, events = in_private_network(_scene, tmp_path, profile, None, str(MAC))
    assert "nothing could be booted" in outcome
    assert "mode-failed HTTP: boot.sig: HTTP 404" in told
    assert events == [("boot-file-missing", "boot.sig")]


def test_a_board_with_another_mac_address_gets_nothing_over_http(tmp_path: Path) -> None:
    outcome, _, _, told, _ = in_private_network(_scene, tmp_path, PI5_2025, 1, "2c:cf:67:00:00:99")
    assert "nothing could be booted" in outcome
    assert "mode-failed HTTP: boot.sig: HTTP 404" in told
