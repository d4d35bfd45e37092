"""Boots of boards as the server sees them: events in the order and at the pace of real bootloaders.

File orders follow third-party logs of Pi 4 (2021) and Pi 5 (2026) boots; pauses are those of healthy
networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from fleet.boards import MacAddress, Revision, Soc, decode_revision
from fleet.spec.model import DhcpMode
from pxe.boot.identity import LEGACY_STYLE, BoardIdentity, IdentifiedBy
from pxe.boot.routes import NO_SUCH_FILE
from pxe.diagnosis.engine import Diagnostician
from pxe.diagnosis.finding import Diagnosis, Finding
from pxe.diagnosis.scene import Setting
from pxe.events import (
    BoardEvent,
    BootFile,
    BootFileMissing,
    BootFileProbed,
    BootProgress,
    DhcpAck,
    DhcpDiscover,
    DhcpOffer,
    ForeignServerChosen,
    TransferDone,
    TransferStatistics,
)

SERVER = IPv4Address("10.0.0.1")
ROUTER = IPv4Address("10.0.0.254")
ADDRESS = IPv4Address("10.0.0.21")
MAC = MacAddress.parse("2c:cf:67:01:02:03")
START = 1_800_000_000.0
ON_DISK = "it boots its own disk: installed"

PI4_FILES = (
    ("start4.elf", 2_300_000),
    ("config.txt", 900),
    ("pieeprom.sig", None),
    ("recover4.elf", None),
    ("recovery.elf", None),
    ("fixup4.dat", 5_400),
    ("dt-blob.bin", None),
    ("bootcfg.txt", None),
    ("bcm2711-rpi-4-b.dtb", 55_000),
    ("overlays/overlay_map.dtb", 5_000),
    ("overlays/vc4-kms-v3d.dtbo", 2_700),
    ("cmdline.txt", 300),
    ("recovery8.img", None),
    ("kernel8.img", 9_600_000),
    ("armstub8-gic.bin", None),
    ("installer.img", 38_000_000),
)
PI5_FILES = (
    ("config.txt", 900),
    ("pieeprom.sig", None),
    ("bcm2712-rpi-5-b.dtb", 78_000),
    ("kernel_2712.img", 9_800_000),
    ("overlays/overlay_map.dtb", 5_000),
    ("overlays/bcm2712d0.dtbo", 900),
    ("cmdline.txt", 300),
    ("armstub8-2712.bin", None),
    ("installer.img", 38_000_000),
)
CM5_FILES = tuple(
    ("bcm2712-rpi-cm5-cm5io.dtb" if name == "bcm2712-rpi-5-b.dtb" else name, size) for name, size in PI5_FILES
)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A board with one bootloader, and what it asks for when it may install."""

    name: str
    revision: int
    style: str
    files: tuple[tuple[str, int | None], ...]
    blksize: int = 1468
    mac: MacAddress = MAC
    serial_low: int = 0x91CDF03D

    @property
    def board(self) -> BoardIdentity:
        revision: Revision = decode_revision(self.revision)
        legacy = self.style == LEGACY_STYLE
        return BoardIdentity(
            mac=self.mac,
            serial_low=self.serial_low,
            revision=None if legacy else revision,
            family=None if legacy else revision.soc,
            eeprom_style=self.style,
            is_pi=True,
            how=IdentifiedBy.OPTION_97,
        )

    @property
    def soc(self) -> Soc:
        soc = decode_revision(self.revision).soc
        assert soc is not None
        return soc


PROFILES = (
    Profile(name="pi4-2021", revision=0xD03114, style="4iPR", files=PI4_FILES, blksize=1024),
    Profile(name="pi4-2021-other-order", revision=0xA03111, style="RPi4", files=PI4_FILES),
    Profile(name="pi4-2023", revision=0xC03114, style="4iPR", files=PI4_FILES),
    Profile(name="pi4-2026", revision=0xD03115, style="4iPR", files=PI4_FILES),
    Profile(name="cm4", revision=0xC03140, style="RPi4", files=PI4_FILES),
    Profile(name="pi5-2023", revision=0xC04170, style="RPi5", files=PI5_FILES),
    Profile(name="pi5-2026", revision=0xD04171, style="5iPR", files=PI5_FILES),
    Profile(name="cm5", revision=0xD04180, style="5iPR", files=CM5_FILES),
)
PI4, PI5, CM5 = PROFILES[3], PROFILES[6], PROFILES[7]


@dataclass
class Bench:
    """One server's diagnosis, and a clock that runs as boards do things."""

    dhcp: DhcpMode = DhcpMode.FULL
    profile: Profile = PI5
    now: float = START
    said: list[Diagnosis] = field(default_factory=list)
    board: BoardIdentity = field(init=False)
    doctor: Diagnostician = field(init=False)

    def __post_init__(self) -> None:
        self.board = self.profile.board
        self.doctor = Diagnostician(Setting(self.dhcp, SERVER))

    def wait(self, seconds: float) -> None:
        """Time passes; the diagnosis looks once a second, as the server lets it."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 1.0, end)
            self.said += self.doctor.tick(self.now)

    def see(self, event: BoardEvent, pause_s: float = 0.05) -> None:
        self.doctor.observe(event)
        self.wait(pause_s)

    @property
    def rules(self) -> set[str]:
        """Ids of everything that was said."""
        return {diagnosis.finding.rule for diagnosis in self.said}

    def finding(self, rule: str) -> Finding:
        return next(diagnosis.finding for diagnosis in self.said if diagnosis.finding.rule == rule)

    def discover(self, pause_s: float = 0.01) -> None:
        self.see(DhcpDiscover(at=self.now, board=self.board, node="one"), pause_s)

    def offer(self) -> None:
        address = ADDRESS if self.dhcp is DhcpMode.FULL else None
        self.see(DhcpOffer(at=self.now, board=self.board, node="one", address=address, answer="x"))

    def take_address(self) -> None:
        """DISCOVER, offers, REQUEST, as it goes when all is well."""
        self.discover()
        self.offer()
        if self.dhcp is DhcpMode.FULL:
            self.ack()
        else:
            self.see(
                ForeignServerChosen(at=self.now, board=self.board, node="one", server=ROUTER, expected=True)
            )

    def ack(self, address: IPv4Address = ADDRESS, *, boots: bool = True) -> None:
        self.see(
            DhcpAck(at=self.now, board=self.board, node="one", address=address, lease_s=3600, boots=boots)
        )

    def read(self, name: str, size: int, rate: float = 4_000_000, *, again: int = 0) -> None:
        """One file, with a probe before it and progress while it lasts."""
        self.see(BootFileProbed(at=self.now, board=self.board, node="one", name=name, size_bytes=size))
        took_s = size / rate
        for second in range(int(took_s)):
            self.progress(name, int(second * rate), size, 1.0)
        self.see(
            BootFile(
                at=self.now,
                board=self.board,
                node="one",
                name=name,
                size_bytes=size,
                seconds=took_s,
                statistics=TransferStatistics(blksize=self.profile.blksize, retransmitted=again),
            )
        )

    def progress(self, name: str, sent: int, size: int, pause_s: float) -> None:
        event = BootProgress(
            at=self.now, board=self.board, node="one", name=name, sent_bytes=sent, size_bytes=size
        )
        self.see(event, pause_s)

    def miss(self, name: str, reason: str = NO_SUCH_FILE, pause_s: float = 0.01) -> None:
        event = BootFileMissing(at=self.now, board=self.board, node="one", name=name, reason=reason)
        self.see(event, pause_s)

    def read_all(self, files: Iterable[tuple[str, int | None]] | None = None) -> None:
        """The profile's files in their order; None stands for one that is not there."""
        for name, size in self.profile.files if files is None else files:
            if size is None:
                self.miss(name)
            else:
                self.read(name, size)

    def install(self) -> None:
        """From the first DISCOVER to the image's last byte."""
        self.take_address()
        self.read_all()
        self.wait(25)  # the installer's kernel starts
        self.ack(boots=False)
        done = TransferDone(
            at=self.now, board=self.board, node="one", name="f00/disk.img.zst", sent_bytes=1, seconds=9.0
        )
        self.wait(60)
        self.see(done)

    def boot_from_disk(self, probes: Sequence[str] = ("start4.elf", "start.elf", "config.txt")) -> None:
        """An installed board that asks first and is told that nothing is there."""
        self.take_address()
        for name in probes:
            self.miss(name, ON_DISK)
        self.wait(40)
        self.ack(boots=False)
        self.wait(200)
