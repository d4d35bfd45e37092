"""What differs between boot firmwares: per family of boards and per age of the EEPROM.

Sources: Raspberry Pi documentation, "Raspberry Pi boot EEPROM" (property defaults, read 2026-11) and "Network
booting" (the boot ROM of a Pi 3); release notes of rpi-eeprom, `firmware-2711` and `firmware-2712` (dates
below are theirs); issues rpi-eeprom#74, #82, #375, #687, #720, #763.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Final

from fleet.boards import BoardModel, MacAddress, Serial, Soc
from lab.bootloader.settings import EepromSettings

ROM_XID: Final = 0x26F3_0339
"""The transaction id of every Pi 3 boot ROM."""


class Family(Enum):
    """Which firmware speaks."""

    ROM3 = auto()
    """The boot ROM of a Pi 3; it fetches bootcode.bin."""
    BOOTCODE = auto()
    """bootcode.bin of a Pi 2 or 3, from an SD card or from the network."""
    BCM2711 = auto()
    BCM2712 = auto()


class GuidStyle(Enum):
    """What stands in the 16 bytes of option 97."""

    FOURCC = auto()
    FOURCC_WITHOUT_MAC = auto()
    """From 2020-03-11 to 2020-03-16: the MAC part is zero."""
    SERIAL_X4 = auto()
    ROM = auto()
    """0x44 sixteen times."""


class TftpOptions(Enum):
    """Which options a read request carries."""

    NONE = auto()
    TSIZE = auto()
    TSIZE_BLKSIZE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class EepromProfile:
    """One firmware image with its settings.

    Attributes:
        fourcc: First four bytes of the GUID in option 97 after its type byte. The order flipped between 2021
            and 2023; a Pi 5 with an EEPROM of before 2023-10-30 sends that of a Pi 4.
        blksize: TFTP block size it asks for. 1024 from 2019-10-08, 1468 from the 2022-12 release.
        wraps_block_numbers: Whether a transfer goes on after block 65535: only since 2025-09-23.
        acks_duplicates: Whether a repeated DATA is acknowledged again: since 2021-02-16, ignored before.
        request_has_class: Whether the DHCPREQUEST carries option 60: seen in 2021-10, absent in 2020-01.
        sends_request: Whether it asks for the offered address at all; the ROM of a Pi 3 takes the offer.
        speaks_http: Whether BOOT_ORDER knows mode 7: BCM2711 since 2022-03-10, BCM2712 since 2024-01-15.
        http_missing_is_fatal: A 404 ends the board instead of the mode (a CM4 of 2025-08-27, rpi-eeprom#763).
        max_boot_img_bytes: Size limit of a RAM disk: 96 MB in 2021-10, 128 MB since 2022-03-10 on BCM2711.
            For BCM2712 nobody published one; the same is assumed.
        has_one_shot_order: Whether the running system can set BOOT_ORDER for one boot: BCM2712 since
            2025-01-14.
        has_tryboot_filter: Whether the EEPROM's own configuration knows [tryboot]: since 2024-05-17.
        resets_on_fatal: Whether an error ends in a reset after three rounds of the pattern (since 2026-04-14)
            rather than in a pattern that goes on for ever.
        early_overlay_map: Whether overlay_map.dtb is fetched in any case: until 2026-06-17.
    """

    name: str
    family: Family
    fourcc: bytes = b"\0\0\0\0"
    guid_style: GuidStyle = GuidStyle.FOURCC
    tftp_options: TftpOptions = TftpOptions.TSIZE_BLKSIZE
    blksize: int = 1468
    wraps_block_numbers: bool
    acks_duplicates: bool = True
    request_has_class: bool = True
    sends_request: bool = True
    speaks_http: bool = False
    http_missing_is_fatal: bool = False
    max_boot_img_bytes: int = 128 << 20
    has_one_shot_order: bool = False
    has_tryboot_filter: bool = False
    resets_on_fatal: bool = False
    early_overlay_map: bool = True
    settings: EepromSettings = field(default_factory=EepromSettings)

    def __post_init__(self) -> None:
        if len(self.fourcc) != 4:
            raise ValueError(f"{self.name}: the fourcc {self.fourcc!r} is not 4 bytes")

    @property
    def soc(self) -> Soc | None:
        """The chip that it is for; None for boards that Bramble does not install."""
        return {Family.BCM2711: Soc.BCM2711, Family.BCM2712: Soc.BCM2712}.get(self.family)

    def with_settings(self, settings: EepromSettings) -> EepromProfile:
        """The same firmware with other settings."""
        return replace(self, settings=settings)


PI3_ROM: Final = EepromProfile(
    name="pi3rom",
    family=Family.ROM3,
    guid_style=GuidStyle.ROM,
    tftp_options=TftpOptions.NONE,
    blksize=512,
    wraps_block_numbers=False,
    acks_duplicates=False,
    sends_request=False,
    # Five tries of five seconds; the ROM asks nothing but the network once the card has failed. It compares
    # the whole text, with its three spaces.
    settings=EepromSettings(
        boot_order=0xE21, dhcp_timeout_s=25.0, dhcp_req_timeout_s=5.0, menu_text="Raspberry Pi Boot   "
    ),
)
BOOTCODE: Final = EepromProfile(
    name="bootcode",
    family=Family.BOOTCODE,
    guid_style=GuidStyle.SERIAL_X4,
    tftp_options=TftpOptions.TSIZE,
    blksize=512,
    wraps_block_numbers=False,
    acks_duplicates=False,
    sends_request=False,
    settings=EepromSettings(boot_order=0xE2, dhcp_req_timeout_s=5.0),
)
PI4_2019: Final = EepromProfile(
    name="pi4-2019",
    family=Family.BCM2711,
    fourcc=b"RPi4",
    guid_style=GuidStyle.SERIAL_X4,
    blksize=1024,
    wraps_block_numbers=False,
    acks_duplicates=False,
    request_has_class=False,
    settings=EepromSettings(boot_order=0x1),
)
PI4_2021: Final = EepromProfile(
    name="pi4-2021",
    family=Family.BCM2711,
    fourcc=b"RPi4",
    blksize=1024,
    wraps_block_numbers=False,
    max_boot_img_bytes=96 << 20,
)
PI4_2023: Final = EepromProfile(
    name="pi4-2023", family=Family.BCM2711, fourcc=b"4iPR", wraps_block_numbers=False, speaks_http=True
)
PI4_2026: Final = EepromProfile(
    name="pi4-2026",
    family=Family.BCM2711,
    fourcc=b"4iPR",
    wraps_block_numbers=True,
    speaks_http=True,
    has_tryboot_filter=True,
    resets_on_fatal=True,
    settings=EepromSettings(partition_walk=True),
)
CM4: Final = EepromProfile(
    name="cm4",
    family=Family.BCM2711,
    fourcc=b"4iPR",
    wraps_block_numbers=False,
    speaks_http=True,
    http_missing_is_fatal=True,
    has_tryboot_filter=True,
    settings=EepromSettings(boot_order=0xF641, partition_walk=True),
)
PI5_2023: Final = EepromProfile(
    name="pi5-2023", family=Family.BCM2712, fourcc=b"5iPR", wraps_block_numbers=False
)
PI5_2025: Final = EepromProfile(
    name="pi5-2025",
    family=Family.BCM2712,
    fourcc=b"5iPR",
    wraps_block_numbers=True,
    speaks_http=True,
    has_one_shot_order=True,
    has_tryboot_filter=True,
    settings=EepromSettings(boot_order=0xF461, partition_walk=True),
)
PI5_2026: Final = replace(PI5_2025, name="pi5-2026", resets_on_fatal=True, early_overlay_map=False)
CM5: Final = replace(PI5_2025, name="cm5", settings=EepromSettings(boot_order=0xF2461, partition_walk=True))

PROFILES: Final = {
    profile.name: profile
    for profile in (
        *(PI3_ROM, BOOTCODE),
        *(PI4_2019, PI4_2021, PI4_2023, PI4_2026, CM4),
        *(PI5_2023, PI5_2025, PI5_2026, CM5),
    )
}


def default_profile(model: BoardModel) -> EepromProfile:
    """The EEPROM that a virtual board of this model carries unless told otherwise."""
    return PI4_2023 if model.soc is Soc.BCM2711 else PI5_2025


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardIdentity:
    """What is burnt into one board."""

    model: BoardModel
    serial: Serial
    mac: MacAddress
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyBoard:
    """A Pi 2 or 3: a server meets them, Bramble does not install them."""

    serial: Serial
    mac: MacAddress
    revision: int = 0xA02082
    """Pi 3B, 1 GB, Sony UK."""


AnyBoard = BoardIdentity | LegacyBoard


def render_guid(board: AnyBoard, profile: EepromProfile) -> bytes:
    """The GUID of DHCP option 97, 17 bytes.

    0 type (0) · 1–4 fourcc · 5–8 revision code LE · 9–12 last four octets of the MAC · 13–16 serial's low
    half LE. Before 2020-03-11, in bootcode.bin, and with DHCP_OPTION97=0: the serial's low half LE four
    times.

    Source: rpi-eeprom release notes of 2020-03-11 and 2020-03-16; byte for byte in the logs of rpi-eeprom#103
        and cmprovision#16.
    """
    serial = board.serial.low.to_bytes(4, "little")
    wanted = profile.settings.option97
    if profile.guid_style is GuidStyle.ROM:
        return b"\0" + b"\x44" * 16
    if profile.guid_style is GuidStyle.SERIAL_X4 or wanted == 0:
        return b"\0" + serial * 4
    fourcc = profile.fourcc
    if wanted is not None:
        # 0x34695052, the documented default of a Pi 4, goes out as "RPi4" by older EEPROMs, "4iPR" by newer.
        fourcc = wanted.to_bytes(4, "little" if profile.fourcc.startswith(b"RPi") else "big")
    mac = bytes(4) if profile.guid_style is GuidStyle.FOURCC_WITHOUT_MAC else board.mac.octets[2:]
    return b"\0" + fourcc + board.revision.to_bytes(4, "little") + mac + serial
