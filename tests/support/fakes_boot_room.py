"""A boot server on a virtual wire that serves what the real decision and the real routes say.

DHCP, ARP, TCP and the TFTP transfers are the model's; *whether* a board gets a file and which bytes it is are
decided by `pxe.boot`, from a `BootTable`, exactly as the server's workers ask it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from cryptography.hazmat.primitives.asymmetric import rsa
from fakes_boot_server import SERVER_IP, run_boot
from fakes_fat import make_fat
from fakes_http_server import ModelWebServer

from fleet.boards import BoardModel, DiskKind, MacAddress, Serial
from imagebuilder.boot_image.sign import render_signature
from lab.bootloader.files import BoardStuckError, BootFiles
from lab.bootloader.machine import Bootrom, Hardware
from lab.bootloader.profile import PI5_2025, BoardIdentity
from lab.bootloader.signature import RsaPublicKey
from pxe.boot.content import open_content
from pxe.boot.decision import BootAnswer, Install, Stage, decide
from pxe.boot.identity import BoardIdentity as SeenBoard
from pxe.boot.routes import locate, route
from pxe.boot.table import BootTable, BootTree

SERIAL = Serial.parse("10000000d03114aa")
MAC = MacAddress.parse("2c:cf:67:12:34:56")
SEEN = SeenBoard(mac=MAC, serial_low=SERIAL.low, is_pi=True)
HTTP_PORT = 7080
EEPROM = (
    f"HTTP_HOST={SERVER_IP}\nHTTP_PORT={HTTP_PORT}\nHTTP_PATH=boot/{SERIAL.prefix}\n"
    "DHCP_TIMEOUT=5000\nPARTITION_WALK=0\n"
)
TREE = {
    "bcm2712-rpi-5-b.dtb": b"dtb",
    "kernel8.img": b"installer's kernel",
}
CONFIG = b"kernel=kernel8.img\ncmdline=cmdline.txt\n"


@cache
def key() -> rsa.RSAPrivateKey:
    """The key that signs; its public half is in the board's EEPROM."""
    return rsa.generate_private_key(65537, 2048)


@cache
def boot_image(intent: int) -> tuple[bytes, bytes]:
    """boot.img and boot.sig of one intent."""
    files = {**TREE, "config.txt": CONFIG, "cmdline.txt": b"bramble.intent=%d" % intent}
    image = make_fat(files, 12)
    return image, render_signature(hashlib.sha256(image).hexdigest(), 1, key()).encode()


def make_tree(intent: int) -> BootTree:
    """What a node may read while this intent is open, over TFTP and HTTP."""
    image, signature = boot_image(intent)
    return BootTree(
        rendered={**TREE, "config.txt": CONFIG, "cmdline.txt": b"bramble.intent=%d" % intent},
        extra={"boot.img": (image,), "boot.sig": (signature,)},
    )


class RoomServer(ModelWebServer):
    """The server of one board.

    Attributes:
        table: The boot table as it is now.
        clock: UTC seconds.
    """

    def __init__(self, table: Callable[[], BootTable], clock: Callable[[], float]) -> None:
        super().__init__({}, port=HTTP_PORT, offers_boot=True)
        self.table = table
        self.clock = clock

    def find_file(self, name: str) -> bytes | None:
        found = route(name, SEEN, self.table(), self.clock())
        if not isinstance(found.answer, Install) or found.node is None:
            return None
        location = locate(found.node.tree, found.parts)
        content = open_content(location) if location is not None else None
        if content is None:
            return None
        try:
            data = bytearray(content.size)
            content.read_into([memoryview(data)], 0)
            return bytes(data)
        finally:
            content.close()

    def find_page(self, path: str) -> bytes | None:
        return self.find_file(path.removeprefix("/boot/")) if path.startswith("/boot/") else None


def answers(table: BootTable, now: float) -> list[BootAnswer]:
    """What DHCP, TFTP and HTTP say of the board."""
    node = table.find(SEEN)
    return [decide(SEEN, node, stage, now) for stage in Stage]


@dataclass
class MemoryDisk:
    """The board's NVMe: blank, or with an installed system."""

    installed: str = ""

    def partitions(self) -> tuple[int, ...]:
        return (1,) if self.installed else ()

    def read(self, partition: int, name: str) -> bytes | None:
        files = {**TREE, "config.txt": CONFIG, "kernel8.img": b"installed kernel"}
        return {**files, "cmdline.txt": self.installed.encode()}.get(name)


def power_on(
    server: RoomServer, disk: MemoryDisk, order: int, *, cut_after_frames: int | None = None
) -> BootFiles | None:
    """One power-on of the board; None where the plug was pulled after so many of its frames."""
    board = BoardIdentity(model=BoardModel.PI5, serial=SERIAL, mac=MAC, revision=0xD04170)
    numbers = key().public_key().public_numbers()
    hardware = Hardware(
        board=board,
        profile=PI5_2025,
        eeprom_config=f"{EEPROM}BOOT_ORDER={order:#x}\n".encode(),
        public_key=RsaPublicKey(numbers.n, numbers.e),
        disks={DiskKind.NVME: disk},
        link_up_s=0.0,
    )
    rom = Bootrom(hardware, random_bits=lambda bits: 7, now=0.0)
    sent = 0

    def count() -> int:
        nonlocal sent
        sent += 1
        if cut_after_frames is not None and sent > cut_after_frames:
            raise PowerCutError
        return 1

    try:
        run_boot(rom, server, count)
    except PowerCutError:
        return None
    if isinstance(rom.outcome, BoardStuckError):
        raise AssertionError(f"the board is stuck: {rom.outcome}")
    return rom.outcome


class PowerCutError(Exception):
    """The plug was pulled."""
