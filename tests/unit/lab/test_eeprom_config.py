from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.boards import BoardModel, MacAddress, Serial
from lab.bootloader.eeprom_config import EepromConfig, parse_eeprom_config, parse_netconsole
from lab.bootloader.filters import Circumstances
from lab.bootloader.profile import PI4_2021, PI4_2026, PI5_2025, EepromProfile
from lab.bootloader.settings import EepromSettings, NetConsole, PrefixMode

SERIAL = Serial.parse("10000000d03114aa")


def _parse(
    text: str, profile: EepromProfile = PI5_2025, model: BoardModel = BoardModel.PI5, **facts: int
) -> EepromConfig:
    circumstances = Circumstances(model=model, serial=SERIAL, **facts)  # type: ignore[arg-type]
    return parse_eeprom_config(text.encode(), profile, circumstances)


def test_every_property_of_the_network_is_read_in_the_firmwares_units() -> None:
    config = _parse(
        "[all]\nBOOT_ORDER=0xf612\nDHCP_TIMEOUT=10000\nDHCP_REQ_TIMEOUT=500\nTFTP_FILE_TIMEOUT=15000\n"
        "NET_BOOT_MAX_RETRIES=-1\nSD_BOOT_MAX_RETRIES=2\nMAX_RESTARTS=3\nTFTP_IP=10.77.0.1\nTFTP_PREFIX=1\n"
        "TFTP_PREFIX_STR=lab/\nCLIENT_IP=10.77.0.9\nSUBNET=255.255.255.0\nGATEWAY=10.77.0.2\n"
        "MAC_ADDRESS=02:00:00:00:00:07\nPXE_OPTION43=My Menu\nDHCP_OPTION97=0x34695052\n"
        "NETCONSOLE=6665@10.77.0.9/,6666@/\nHTTP_HOST=10.77.0.1\nHTTP_PORT=7080\nHTTP_PATH=/pi/\n"
        "PARTITION=2\nPARTITION_WALK=0\nFREEZE_VERSION=1\nSIGNED_BOOT=1\nBOOT_WATCHDOG_TIMEOUT=60\n"
    )
    assert config.problems == ()
    assert config.settings == EepromSettings(
        boot_order=0xF612,
        dhcp_timeout_s=10.0,
        dhcp_req_timeout_s=0.5,
        tftp_file_timeout_s=15.0,
        net_boot_max_retries=-1,
        sd_boot_max_retries=2,
        max_restarts=3,
        tftp_ip=IPv4Address("10.77.0.1"),
        prefix_mode=PrefixMode.TEXT,
        prefix_text="lab/",
        client_ip=IPv4Address("10.77.0.9"),
        subnet=IPv4Address("255.255.255.0"),
        gateway=IPv4Address("10.77.0.2"),
        mac_address=MacAddress.parse("02:00:00:00:00:07"),
        menu_text="My Menu",
        option97=0x34695052,
        netconsole=parse_netconsole("6665@10.77.0.9/,6666@/"),
        http_host="10.77.0.1",
        http_port=7080,
        http_path="pi",
        partition=2,
        partition_walk=False,
        self_update=False,
        signed_boot=True,
        watchdog_s=60,
    )


def test_an_empty_configuration_leaves_the_profiles_defaults() -> None:
    assert _parse("").settings == PI5_2025.settings


def test_timeouts_below_the_firmwares_least_are_raised_to_it() -> None:
    settings = _parse("DHCP_TIMEOUT=1\nDHCP_REQ_TIMEOUT=1\nTFTP_FILE_TIMEOUT=1\n").settings
    assert (settings.dhcp_timeout_s, settings.dhcp_req_timeout_s) == (5.0, 0.5)
    assert settings.tftp_file_timeout_s == 5.0


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("[pi5]\nBOOT_ORDER=0xf6\n[pi4]\nBOOT_ORDER=0xf1\n", 0xF6),
        ("[0xd03114aa]\nBOOT_ORDER=0xf2\n[0xd03114ab]\nBOOT_ORDER=0xf4\n", 0xF2),
        ("[none]\nBOOT_ORDER=0xf2\n[all]\nBOOT_UART=1\n", 0xF461),
        ("[boot_arg1=42]\nBOOT_ORDER=0xf2\n", 0xF461),
        ("[partition=7]\nBOOT_ORDER=0xf2\n", 0xF461),
    ],
)
def test_filters_choose_for_this_board(text: str, order: int) -> None:
    assert _parse(text).settings.boot_order == order


def test_boot_variables_choose_once_they_are_set() -> None:
    text = "[boot_arg1=42]\nBOOT_ORDER=0xf2\n[all]\n[boot_count>3]\nBOOT_ORDER=0xf4\n"
    assert _parse(text, boot_arg1=42).settings.boot_order == 0xF2
    assert _parse(text, boot_count=4).settings.boot_order == 0xF4
    assert _parse("[partition=7]\nBOOT_ORDER=0xf2\n", partition=7).settings.boot_order == 0xF2


def test_the_tryboot_filter_is_known_since_may_2024() -> None:
    text = "BOOT_ORDER=0xf1\n[tryboot]\nBOOT_ORDER=0xf12\n"
    old, new = (
        _parse(text, profile, BoardModel.PI4, tryboot=True).settings.boot_order
        for profile in (PI4_2021, PI4_2026)
    )
    assert (old, new) == (0xF1, 0xF12)


def test_lines_behind_config_txt_are_config_txt() -> None:
    settings = _parse("BOOT_ORDER=0xf2\n[config.txt]\n[pi5]\nkernel=own.img\n").settings
    assert settings.config_txt == b"[pi5]\nkernel=own.img"
    assert settings.boot_order == 0xF2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("BOOT_ORDERS=0xf2\n", "line 1: BOOT_ORDERS is no property"),
        ("BOOT_ORDER=0xf2\nhello\n", "line 2: 'hello' is neither"),
        ("BOOT_ORDER=0x0\n", "BOOT_ORDER=0x0: BOOT_ORDER 0x0"),
        ("DHCP_TIMEOUT=45s\n", "DHCP_TIMEOUT=45s"),
        ("TFTP_IP=10.77.0\n", "TFTP_IP=10.77.0: Expected 4 octets"),
        ("MAC_ADDRESS=ff:ff:ff:ff:ff:ff\n", "is a group address"),
        ("TFTP_PREFIX=3\n", "TFTP_PREFIX=3: 3 is not a valid PrefixMode"),
        ("NETCONSOLE=hello\n", "the address of the sender must be there"),
        ("#" * 3000, "3000 bytes, an EEPROM holds 2024"),
    ],
)
def test_what_the_firmware_passes_over_in_silence_is_named(text: str, problem: str) -> None:
    config = _parse(text)
    assert any(problem in line for line in config.problems)
    assert config.settings == PI5_2025.settings or "0xf2" in text


def test_every_problem_is_named_at_once() -> None:
    assert len(_parse("A=1\nB=2\nTFTP_IP=x\nDHCP_TIMEOUT=y\n").problems) == 4


@pytest.mark.parametrize(
    ("text", "console"),
    [
        (
            "6665@169.254.1.1/,6666@/",
            NetConsole(
                source_port=6665,
                source_ip=IPv4Address("169.254.1.1"),
                target_port=6666,
                target_ip=IPv4Address("255.255.255.255"),
                target_mac=b"\xff" * 6,
            ),
        ),
        (
            "@10.1.1.2/,@10.1.1.1/",
            NetConsole(
                source_port=6665,
                source_ip=IPv4Address("10.1.1.2"),
                target_port=6666,
                target_ip=IPv4Address("10.1.1.1"),
                target_mac=b"\xff" * 6,
            ),
        ),
    ],
)
def test_netconsole_is_read_with_its_defaults(text: str, console: NetConsole) -> None:
    assert parse_netconsole(text) == console


@pytest.mark.parametrize("text", ["", "6665@/,6666@/", "6665@1.2.3.4/", "x" * 33])
def test_netconsole_without_a_sender_or_too_long_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"sender|characters"):
        parse_netconsole(text)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_configuration(data: bytes) -> None:
    circumstances = Circumstances(model=BoardModel.PI5, serial=SERIAL)
    parse_eeprom_config(data, PI5_2025, circumstances)
