"""What differs between boot firmwares: per family of boards and per age of the EEPROM.

Sources: Raspberry Pi documentation, "Raspberry Pi boot EEPROM" (property defaults, read 2026-11); release
notes of rpi-eeprom, `firmware-2711` and `firmware-2712` (dates below are theirs); issues rpi-eeprom#74, #375,
#687, #720.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fleet.boards import BoardModel, MacAddress, Serial, Soc

MIN_DHCP_TIMEOUT_S: Final = 5.0
MIN_DHCP_REQ_TIMEOUT_S: Final = 0.5
MIN_TFTP_FILE_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EepromProfile:
    """One EEPROM image with its default settings.

    Attributes:
        fourcc: First four bytes of the GUID in option 97 after its type byte.
        blksize: TFTP block size it asks for. 1024 from 2019-10-08, 1468 from the 2022-12 release.
        wraps_block_numbers: Whether a transfer goes on after block 65535: only since 2025-09-23.
        acks_duplicates: Whether a repeated DATA is acknowledged again: since 2021-02-16, ignored before.
        request_has_class: Whether the DHCPREQUEST carries option 60: seen in 2021-10, absent in 2020-01.
        dhcp_timeout_s: DHCP_TIMEOUT, for the whole exchange.
        dhcp_req_timeout_s: DHCP_REQ_TIMEOUT, until DISCOVER or REQUEST is sent again.
        tftp_file_timeout_s: TFTP_FILE_TIMEOUT, for one file.
        net_boot_max_retries: NET_BOOT_MAX_RETRIES; -1 is for ever.
    """

    name: str
    soc: Soc
    fourcc: bytes
    blksize: int = 1468
    wraps_block_numbers: bool
    acks_duplicates: bool = True
    request_has_class: bool = True
    dhcp_timeout_s: float = 45.0
    dhcp_req_timeout_s: float = 4.0
    tftp_file_timeout_s: float = 30.0
    net_boot_max_retries: int = 0

    def __post_init__(self) -> None:
        if len(self.fourcc) != 4:
            raise ValueError(f"{self.name}: the fourcc {self.fourcc!r} is not 4 bytes")
        for name, value, least in (
            ("dhcp_timeout_s", self.dhcp_timeout_s, MIN_DHCP_TIMEOUT_S),
            ("dhcp_req_timeout_s", self.dhcp_req_timeout_s, MIN_DHCP_REQ_TIMEOUT_S),
            ("tftp_file_timeout_s", self.tftp_file_timeout_s, MIN_TFTP_FILE_TIMEOUT_S),
        ):
            if value < least:
                raise ValueError(f"{self.name}: {name} is {value}, the firmware takes no less than {least}")


PI4_2021: Final = EepromProfile(
    name="pi4-2021", soc=Soc.BCM2711, fourcc=b"RPi4", blksize=1024, wraps_block_numbers=False
)
PI4_2023: Final = EepromProfile(name="pi4-2023", soc=Soc.BCM2711, fourcc=b"4iPR", wraps_block_numbers=False)
PI5_2023: Final = EepromProfile(name="pi5-2023", soc=Soc.BCM2712, fourcc=b"5iPR", wraps_block_numbers=False)
PI5_2025: Final = EepromProfile(name="pi5-2025", soc=Soc.BCM2712, fourcc=b"5iPR", wraps_block_numbers=True)

PROFILES: Final = {profile.name: profile for profile in (PI4_2021, PI4_2023, PI5_2023, PI5_2025)}


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

    def option97(self, fourcc: bytes) -> bytes:
        """The GUID of DHCP option 97, 17 bytes.

        0 type (0) · 1–4 fourcc · 5–8 revision code LE · 9–12 last four octets of the MAC · 13–16 serial's low
        half LE

        Source: rpi-eeprom release note of 2020-03-11; byte for byte in the logs of rpi-eeprom#103 and
            cmprovision#16.
        """
        revision = self.revision.to_bytes(4, "little")
        return b"\0" + fourcc + revision + self.mac.octets[2:] + self.serial.low.to_bytes(4, "little")
