"""The configuration inside an EEPROM (bootconf.txt): text in, the settings that hold on one board out.

The firmware takes what it understands and says nothing about the rest; here the rest is named, because a
mistyped property is found nowhere else.

Source: Raspberry Pi documentation, "Raspberry Pi boot EEPROM" (read 2026-11).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import AddressValueError, IPv4Address
from typing import Any, Final

from fleet.boards import BoardError, MacAddress
from lab.bootloader.boot_order import parse_boot_order
from lab.bootloader.filters import Circumstances, Filters, section_name
from lab.bootloader.profile import EepromProfile
from lab.bootloader.settings import (
    MIN_DHCP_REQ_TIMEOUT_S,
    MIN_DHCP_TIMEOUT_S,
    MIN_TFTP_FILE_TIMEOUT_S,
    EepromSettings,
    NetConsole,
    PrefixMode,
)

MAX_CONFIG_BYTES: Final = 2024
"""What the section of an EEPROM image holds for it."""
MAX_NETCONSOLE_CHARS: Final = 32
_CONFIG_TXT: Final = "config.txt"
_WITHOUT_EFFECT: Final = frozenset(
    (
        *("BOOT_UART", "UART_BAUD", "WAKE_ON_GPIO", "POWER_OFF_ON_HALT", "DISABLE_HDMI", "HDMI_DELAY"),
        *("NET_INSTALL_ENABLED", "NET_INSTALL_AT_POWER_ON", "NET_INSTALL_KEYBOARD_WAIT", "IMAGER_REPO_URL"),
        *("USB_MSD_DISCOVER_TIMEOUT", "USB_MSD_LUN_TIMEOUT", "USB_MSD_PWR_OFF_TIME", "PCIE_PROBE"),
        *("USE_IPV6", "MAC_ADDRESS_OTP", "BOOTVAR0", "VL805", "PSU_MAX_CURRENT", "SDRAM_BANKLOW"),
        *("REBOOT_ON_FATAL_ERROR", "BOOT_WATCHDOG_PARTITION", "UPDATE_INTERVAL", "XHCI_DEBUG"),
        *("USB_MSD_BOOT_MAX_RETRIES", "USB_MSD_EXCLUDE_VID_PID", "USB_MSD_STARTUP_DELAY"),
    )
)
"""Properties that the firmware knows and that show neither on the network nor on a disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EepromConfig:
    """What a configuration comes to.

    Attributes:
        problems: One line for each line that has no effect, or not the one that was meant.
    """

    settings: EepromSettings
    problems: tuple[str, ...] = ()


def parse_eeprom_config(data: bytes, profile: EepromProfile, circumstances: Circumstances) -> EepromConfig:
    """Read bootconf.txt on top of a profile's own settings.

    Args:
        data: The text.
        profile: The firmware that reads it; `[tryboot]` means something only to newer ones.
        circumstances: The board and how it was started.
    """
    known = circumstances if profile.has_tryboot_filter else replace(circumstances, tryboot=False)
    filters = Filters(known)
    values: dict[str, str] = {}
    problems: list[str] = []
    config_txt: list[str] = []
    if len(data) > MAX_CONFIG_BYTES:
        problems.append(f"the configuration has {len(data)} bytes, an EEPROM holds {MAX_CONFIG_BYTES}")
    lines = iter(data.decode("utf-8", "replace").splitlines())
    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        name = section_name(line)
        if name == _CONFIG_TXT:
            config_txt += lines  # from here on it is config.txt, filters included
            break
        if name is not None:
            filters.apply(name)
        elif "=" not in line:
            problems.append(f"line {number}: {line!r} is neither a property nor a filter")
        elif filters.hold:
            key, value = (part.strip() for part in line.split("=", 1))
            values[key.upper()] = value
            if key.upper() not in _READERS and key.upper() not in _WITHOUT_EFFECT:
                problems.append(f"line {number}: {key} is no property that the firmware knows")
    fields: dict[str, Any] = {}
    for key, text in values.items():
        if key in _READERS:
            try:
                fields |= _READERS[key](text)
            except (ValueError, AddressValueError, BoardError) as error:
                problems.append(f"{key}={text}: {error}")
    if config_txt:
        fields["config_txt"] = "\n".join(config_txt).encode()
    return EepromConfig(settings=replace(profile.settings, **fields), problems=tuple(problems))


_Reader = Callable[[str], Mapping[str, Any]]


def _milliseconds(name: str, least_s: float) -> _Reader:
    return lambda text: {name: max(least_s, int(text, 0) / 1000)}


def _number(name: str) -> _Reader:
    return lambda text: {name: int(text, 0)}


def _flag(name: str) -> _Reader:
    return lambda text: {name: int(text, 0) != 0}


def _address(name: str) -> _Reader:
    return lambda text: {name: IPv4Address(text) if text else None}


def _text(name: str) -> _Reader:
    return lambda text: {name: text}


def _boot_order(text: str) -> Mapping[str, Any]:
    value = int(text, 16)
    parse_boot_order(value)
    return {"boot_order": value}


def _netconsole(text: str) -> Mapping[str, Any]:
    return {"netconsole": parse_netconsole(text) if text else None}


def parse_netconsole(text: str) -> NetConsole:
    """Read `src_port@src_ip/,dst_port@dst_ip/[dst_mac]`; ports 6665 and 6666 where left out, everybody where
    no receiver is named.

    Raises:
        ValueError: Not of that form, or without the sender's address.
    """
    if len(text) > MAX_NETCONSOLE_CHARS:
        raise ValueError(f"it has {len(text)} characters, the firmware reads {MAX_NETCONSOLE_CHARS}")
    source, comma, target = text.partition(",")
    source_port, at, source_ip = source.partition("@")
    target_port, _, rest = target.partition("@")
    target_ip, _, target_mac = rest.partition("/")
    if not comma or not at or not source_ip.rstrip("/"):
        raise ValueError("write src_port@src_ip/,dst_port@dst_ip/ ; the address of the sender must be there")
    return NetConsole(
        source_port=int(source_port or 6665),
        source_ip=IPv4Address(source_ip.rstrip("/").partition("/")[0]),
        target_port=int(target_port or 6666),
        target_ip=IPv4Address(target_ip or "255.255.255.255"),
        target_mac=MacAddress.parse(target_mac).octets if target_mac else b"\xff" * 6,
    )


_READERS: Final[Mapping[str, _Reader]] = {
    "BOOT_ORDER": _boot_order,
    "DHCP_TIMEOUT": _milliseconds("dhcp_timeout_s", MIN_DHCP_TIMEOUT_S),
    "DHCP_REQ_TIMEOUT": _milliseconds("dhcp_req_timeout_s", MIN_DHCP_REQ_TIMEOUT_S),
    "TFTP_FILE_TIMEOUT": _milliseconds("tftp_file_timeout_s", MIN_TFTP_FILE_TIMEOUT_S),
    "NET_BOOT_MAX_RETRIES": _number("net_boot_max_retries"),
    "SD_BOOT_MAX_RETRIES": _number("sd_boot_max_retries"),
    "MAX_RESTARTS": _number("max_restarts"),
    "TFTP_IP": _address("tftp_ip"),
    "TFTP_PREFIX": lambda text: {"prefix_mode": PrefixMode(int(text, 0))},
    "TFTP_PREFIX_STR": _text("prefix_text"),
    "CLIENT_IP": _address("client_ip"),
    "SUBNET": _address("subnet"),
    "GATEWAY": _address("gateway"),
    "MAC_ADDRESS": lambda text: {"mac_address": MacAddress.parse(text) if text else None},
    "PXE_OPTION43": _text("menu_text"),
    "DHCP_OPTION97": _number("option97"),
    "NETCONSOLE": _netconsole,
    "HTTP_HOST": lambda text: {"http_host": text or None},
    "HTTP_PORT": _number("http_port"),
    "HTTP_PATH": lambda text: {"http_path": text.strip("/")},
    "HTTP_CACERT_HASH": _text("http_cacert_hash"),
    "PARTITION": _number("partition"),
    "PARTITION_WALK": _flag("partition_walk"),
    "ENABLE_SELF_UPDATE": _flag("self_update"),
    "FREEZE_VERSION": lambda text: {"self_update": False} if int(text, 0) else {},
    "SIGNED_BOOT": _flag("signed_boot"),
    "BOOT_WATCHDOG_TIMEOUT": _number("watchdog_s"),
}
