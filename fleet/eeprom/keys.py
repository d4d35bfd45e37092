"""Every property of the EEPROM configuration that is known, and what its value may be.

A key that is not here has no effect, and the bootloader says nothing about it (rpi-eeprom issue 826).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import AddressValueError, IPv4Address
from typing import Final

from fleet.boards import BoardModel, Soc

TEXT_BYTES: Final = 32
"""Longest NETCONSOLE and TFTP_PREFIX_STR."""
MODES: Final = {
    "0": "SD card detect",
    "1": "SD or eMMC",
    "2": "network",
    "3": "rpiboot",
    "4": "USB",
    "5": "BCM USB",
    "6": "NVMe",
    "7": "HTTP",
    "e": "stop",
    "f": "again from the first",
}
"""Digits of BOOT_ORDER, which is read from its last digit to its first."""
NVME_BOARDS: Final = (BoardModel.CM4, BoardModel.CM5, BoardModel.CM5_LITE, BoardModel.PI5, BoardModel.PI500)

Fault = str | None
"""What is wrong with a value, in words; None where nothing is."""


def boot_order_digits(value: str) -> str | None:
    """The modes in the order in which they are tried; None where it is no BOOT_ORDER."""
    match = re.fullmatch(r"0[xX]([0-9a-fA-F]{1,8})", value)
    return match.group(1).lower()[::-1] if match else None


def describe_boot_order(value: str) -> str:
    """``network, NVMe, again from the first``."""
    return ", ".join(MODES.get(digit, f"unknown ({digit})") for digit in boot_order_digits(value) or "")


def _boot_order(value: str, board: BoardModel) -> Fault:
    digits = boot_order_digits(value)
    if digits is None:
        return f"{value!r} is not up to eight hexadecimal digits after 0x"
    for digit in digits:
        if digit not in MODES:
            return f"{digit!r} is no boot mode; known are {', '.join(MODES)}"
        if digit == "6" and board not in NVME_BOARDS:
            return f"6 is NVMe, which a {board.title} can not boot from"
        if digit == "5" and board.soc is Soc.BCM2712:
            return f"5 is the USB port of older chips, which a {board.title} has not"
    if "3" in digits[:-1]:
        return "3 (rpiboot) never ends: it can only stand first in the text, to be tried last"
    return None


def _number(low: int, high: int) -> Callable[[str, BoardModel], Fault]:
    def check(value: str, _board: BoardModel) -> Fault:
        if not re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|[0-9]+)", value):
            return f"{value!r} is not a number"
        number = int(value, 0) if value.lower().lstrip("-").startswith("0x") else int(value)
        return None if low <= number <= high else f"{value} is not from {low} to {high}"

    return check


def _address(value: str, _board: BoardModel) -> Fault:
    try:
        IPv4Address(value)
    except AddressValueError:
        return f"{value!r} is not an IPv4 address"
    return None


def _text(limit: int) -> Callable[[str, BoardModel], Fault]:
    def check(value: str, _board: BoardModel) -> Fault:
        if len(value) > limit:
            return f"it has {len(value)} characters, the bootloader takes {limit}"
        return (
            None if value.isascii() and value.isprintable() else "it has characters that are not plain ASCII"
        )

    return check


def _prefix(value: str, board: BoardModel) -> Fault:
    fault = _text(TEXT_BYTES)(value, board)
    if fault is None and value and not value.endswith("/"):
        fault = (
            f"{value!r} has no slash at its end, and the bootloader adds none: it would ask for "
            f"{value}config.txt"
        )
    return fault


def _netconsole(value: str, _board: BoardModel) -> Fault:
    """``[port]@ip/[interface],[port]@[ip]/[mac]``; the first address has to be there."""
    if len(value) > TEXT_BYTES:
        return f"it has {len(value)} characters, the bootloader takes {TEXT_BYTES}"
    match = re.fullmatch(r"(\d*)@([0-9.]*)/(\w*),(\d*)@([0-9.]*)/([0-9a-fA-F:]*)", value)
    if match is None:
        return f"{value!r} is not like 6665@10.0.0.21/,6666@/"
    ports, addresses = (match.group(1), match.group(4)), (match.group(2), match.group(5))
    if not addresses[0]:
        return "the board's own address, between @ and /, has to be there"
    for address in filter(None, addresses):
        try:
            IPv4Address(address)
        except AddressValueError:
            return f"{address!r} is not an IPv4 address"
    if any(not 0 < int(port) < 65_536 for port in ports if port):
        return "a port is from 1 to 65535"
    return None


_MS: Final = 24 * 3600 * 1000
_FLAG: Final = _number(0, 1)

KEYS: Final[dict[str, Callable[[str, BoardModel], Fault]]] = {
    "BOOT_ORDER": _boot_order,
    "DHCP_TIMEOUT": _number(5000, _MS),
    "DHCP_REQ_TIMEOUT": _number(500, _MS),
    "TFTP_FILE_TIMEOUT": _number(5000, _MS),
    "NET_BOOT_MAX_RETRIES": _number(-1, 1_000_000),
    "SD_BOOT_MAX_RETRIES": _number(-1, 1_000_000),
    "USB_MSD_BOOT_MAX_RETRIES": _number(-1, 1_000_000),
    "MAX_RESTARTS": _number(-1, 1_000_000),
    "TFTP_IP": _address,
    "TFTP_PREFIX": _number(0, 2),
    "TFTP_PREFIX_STR": _prefix,
    "CLIENT_IP": _address,
    "SUBNET": _address,
    "GATEWAY": _address,
    "MAC_ADDRESS": _text(17),
    "MAC_ADDRESS_OTP": _text(16),
    "PXE_OPTION43": _text(64),
    "DHCP_OPTION97": _number(0, 0xFFFF_FFFF),
    "USE_IPV6": _FLAG,
    "NETCONSOLE": _netconsole,
    "DISABLE_HDMI": _FLAG,
    "HDMI_DELAY": _number(0, 3600),
    "BOOT_UART": _FLAG,
    "UART_BAUD": _number(9600, 921_600),
    "ENABLE_SELF_UPDATE": _FLAG,
    "FREEZE_VERSION": _FLAG,
    "BOOT_WATCHDOG_TIMEOUT": _number(0, 86_400),
    "BOOT_WATCHDOG_PARTITION": _number(0, 63),
    "PARTITION": _number(0, 63),
    "PARTITION_WALK": _FLAG,
    "USB_MSD_DISCOVER_TIMEOUT": _number(5000, _MS),
    "USB_MSD_LUN_TIMEOUT": _number(100, _MS),
    "USB_MSD_PWR_OFF_TIME": _number(0, 5000),
    "USB_MSD_STARTUP_DELAY": _number(0, 30_000),
    "USB_MSD_EXCLUDE_VID_PID": _text(64),
    "PCIE_PROBE": _FLAG,
    "HTTP_HOST": _text(255),
    "HTTP_PORT": _number(1, 65_535),
    "HTTP_PATH": _text(255),
    "HTTP_CACERT_HASH": _text(64),
    "NET_INSTALL_ENABLED": _FLAG,
    "NET_INSTALL_AT_POWER_ON": _FLAG,
    "NET_INSTALL_KEYBOARD_WAIT": _number(0, 60_000),
    "IMAGER_REPO_URL": _text(255),
    "SIGNED_BOOT": _number(0, 0xFFFF),
    "POWER_OFF_ON_HALT": _FLAG,
    "WAKE_ON_GPIO": _FLAG,
    "PSU_MAX_CURRENT": _number(0, 10_000),
    "REBOOT_ON_FATAL_ERROR": _FLAG,
    "VL805": _FLAG,
    "XHCI_DEBUG": _number(0, 0xFFFF_FFFF),
    "SDRAM_BANKLOW": _number(0, 4),
    "BOOTVAR0": _number(0, 0xFFFF_FFFF),
    "set_reboot_order": _number(0, 0xFFFF_FFFF),
}
"""Key → what is wrong with a value for a board."""
