"""What a user can set in a boot EEPROM: the properties that the network, disk and HTTP modes obey.

Values are the firmware's own (milliseconds become seconds); a property that is not here has no effect on what
a server or a disk sees. `eeprom_config` reads them from text.

Source: Raspberry Pi documentation, "Raspberry Pi boot EEPROM", configuration properties (read 2026-11).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address
from typing import Final

from fleet.boards import MacAddress

MIN_DHCP_TIMEOUT_S: Final = 5.0
MIN_DHCP_REQ_TIMEOUT_S: Final = 0.5
MIN_TFTP_FILE_TIMEOUT_S: Final = 5.0
MAX_PREFIX_CHARS: Final = 32
MENU_TEXT: Final = "Raspberry Pi Boot"


class PrefixMode(IntEnum):
    """TFTP_PREFIX: what stands before the names of files."""

    SERIAL = 0
    TEXT = 1
    MAC = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class NetConsole:
    """NETCONSOLE: where the firmware's text goes as UDP datagrams.

    Attributes:
        target_mac: Of the receiver; all ones where the property leaves it out.
    """

    source_port: int
    source_ip: IPv4Address
    target_port: int
    target_ip: IPv4Address
    target_mac: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EepromSettings:
    """The settings of one EEPROM, each with the firmware's default.

    Attributes:
        dhcp_timeout_s: DHCP_TIMEOUT, for the whole exchange.
        dhcp_req_timeout_s: DHCP_REQ_TIMEOUT, until DISCOVER or REQUEST is sent again.
        tftp_file_timeout_s: TFTP_FILE_TIMEOUT, for one file.
        net_boot_max_retries: NET_BOOT_MAX_RETRIES, further tries before the next mode; -1 is for ever.
        sd_boot_max_retries: SD_BOOT_MAX_RETRIES, the same for the SD card.
        max_restarts: MAX_RESTARTS, how often RESTART may start over before the board resets; -1 is for ever.
        tftp_ip: TFTP_IP; takes the place of the address that DHCP gives.
        prefix_mode, prefix_text: TFTP_PREFIX and TFTP_PREFIX_STR; no slash is added to the text.
        client_ip, subnet, gateway: With `tftp_ip`, DHCP is left out altogether.
        mac_address: MAC_ADDRESS; None for the board's own.
        menu_text: PXE_OPTION43, to be found in option 43.
        option97: DHCP_OPTION97, a fourcc as a number; None for the EEPROM's own, 0 for the old style (serial
            four times).
        netconsole: NETCONSOLE; None where it is off.
        http_host, http_port, http_path: Where the HTTP mode finds boot.sig and boot.img; `http_host` None is
            Raspberry Pi's own server.
        http_cacert_hash: HTTP_CACERT_HASH; with it the server is asked over HTTPS.
        partition: PARTITION, the disk partition to boot from; 0 for the first FAT one.
        partition_walk: PARTITION_WALK, go on to the next FAT partition where one is not bootable.
        self_update: Neither ENABLE_SELF_UPDATE=0 nor FREEZE_VERSION=1.
        signed_boot: SIGNED_BOOT: only a boot.img with a good boot.sig starts.
        watchdog_s: BOOT_WATCHDOG_TIMEOUT, until the board resets where no system was started; 0 is off.
        config_txt: Lines of the section [config.txt], which are appended to config.txt.
    """

    boot_order: int = 0xF41
    dhcp_timeout_s: float = 45.0
    dhcp_req_timeout_s: float = 4.0
    tftp_file_timeout_s: float = 30.0
    net_boot_max_retries: int = 0
    sd_boot_max_retries: int = 0
    max_restarts: int = -1
    tftp_ip: IPv4Address | None = None
    prefix_mode: PrefixMode = PrefixMode.SERIAL
    prefix_text: str = ""
    client_ip: IPv4Address | None = None
    subnet: IPv4Address | None = None
    gateway: IPv4Address | None = None
    mac_address: MacAddress | None = None
    menu_text: str = MENU_TEXT
    option97: int | None = None
    netconsole: NetConsole | None = None
    http_host: str | None = None
    http_port: int = 80
    http_path: str = ""
    http_cacert_hash: str = ""
    partition: int = 0
    partition_walk: bool = False
    self_update: bool = True
    signed_boot: bool = False
    watchdog_s: float = 0.0
    config_txt: bytes = b""

    def __post_init__(self) -> None:
        for name, value, least in (
            ("dhcp_timeout_s", self.dhcp_timeout_s, MIN_DHCP_TIMEOUT_S),
            ("dhcp_req_timeout_s", self.dhcp_req_timeout_s, MIN_DHCP_REQ_TIMEOUT_S),
            ("tftp_file_timeout_s", self.tftp_file_timeout_s, MIN_TFTP_FILE_TIMEOUT_S),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}, the firmware takes no less than {least}")
        if len(self.prefix_text) > MAX_PREFIX_CHARS:
            raise ValueError(
                f"TFTP_PREFIX_STR {self.prefix_text!r} is longer than {MAX_PREFIX_CHARS} characters"
            )
        if self.option97 is not None and not 0 <= self.option97 <= 0xFFFF_FFFF:
            raise ValueError(f"DHCP_OPTION97 {self.option97:#x} does not fit in 32 bits")
