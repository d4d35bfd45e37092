from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from lab.bootloader.files import FileRequest
from lab.bootloader.profile import PI4_2021, PI4_2023, PI5_2025, EepromProfile
from lab.bootloader.tftp import RESEND_S, Download, Link, Outcome
from lab.frames import Udp, checksum, parse_frame
from pxe.tftp.wire import Ack, Data, Error, OptionAck, Packet, parse_packet

LINK = Link(
    mac=bytes.fromhex("e45f010902f7"),
    address=IPv4Address("10.77.0.50"),
    next_hop_mac=bytes.fromhex("525400000001"),
    server=IPv4Address("10.77.0.1"),
)
PORT, SERVER_PORT = 49152, 40000


def _download(
    name: str = "f", *, probe: bool = False, profile: EepromProfile = PI5_2025, stuck: bool = False
) -> Download:
    return Download(FileRequest(name, probe, stuck), LINK, profile, port=PORT, now=0.0)


def _sent(download: Download) -> list[tuple[int, Packet]]:
    """Target port and packet of every frame that waits; each frame's checksum is checked."""
    packets = []
    for frame in download.to_send:
        assert checksum(frame[26:34] + b"\0\x11" + frame[38:40] + frame[34:]) == 0
        datagram = parse_frame(frame)
        assert isinstance(datagram, Udp)
        assert datagram.source_port == PORT
        packets.append((datagram.target_port, parse_packet(datagram.payload)))
    download.to_send.clear()
    return packets


def _oack(**options: str) -> bytes:
    return OptionAck(tuple(options.items())).encode()


@pytest.mark.parametrize(
    ("profile", "name", "payload"),
    [
        (
            PI4_2021,
            "d9780558/start4.elf",
            "0001643937383035353"
            "82f7374617274342e656c66006f63746574007473697a65003000626c6b73697a65003130323400",
        ),
        (
            PI5_2025,
            "da591740/config.txt",
            "0001646135393137343"
            "02f636f6e6669672e747874006f63746574007473697a65003000626c6b73697a65003134363800",
        ),
    ],
    ids=["pi4-2021", "pi5-2025"],
)
def test_the_request_is_byte_for_byte_that_of_the_eeprom(
    profile: EepromProfile, name: str, payload: str
) -> None:
    datagram = parse_frame(_download(name, profile=profile).to_send[0])

    assert isinstance(datagram, Udp)
    assert datagram.payload.hex() == payload
    assert len(datagram.payload) == 49
    assert datagram.target_port == 69


def test_a_file_is_read_block_by_block_with_the_agreed_size() -> None:
    download = _download()
    download.to_send.clear()
    download.receive(_oack(tsize="20", blksize="16"), SERVER_PORT, 0.1)
    assert _sent(download) == [(SERVER_PORT, Ack(0))]
    download.receive(Data(1, b"a" * 16).encode(), SERVER_PORT, 0.2)
    download.receive(Data(2, b"b" * 4).encode(), SERVER_PORT, 0.3)

    assert _sent(download) == [(SERVER_PORT, Ack(1)), (SERVER_PORT, Ack(2))]
    assert download.outcome is Outcome.FOUND
    assert download.found.data == b"a" * 16 + b"b" * 4


def test_a_server_without_options_is_read_in_blocks_of_512() -> None:
    download = _download()
    download.receive(Data(1, bytes(512)).encode(), SERVER_PORT, 0.1)
    assert download.outcome is None
    download.receive(Data(2, b"").encode(), SERVER_PORT, 0.2)
    assert download.found.data == bytes(512)


def test_a_probe_ends_with_early_terminate_as_soon_as_it_knows_the_size() -> None:
    download = _download(probe=True)
    download.to_send.clear()
    download.receive(_oack(tsize="2965216", blksize="1468"), SERVER_PORT, 0.1)

    assert _sent(download) == [(SERVER_PORT, Error(0, "Early terminate"))]
    assert download.outcome is Outcome.FOUND
    assert download.found.size_bytes == 2965216


def test_a_probe_of_an_empty_file_finds_it_empty_with_and_without_options() -> None:
    with_options, without = _download(probe=True), _download(probe=True)
    with_options.receive(_oack(tsize="0"), SERVER_PORT, 0.1)
    without.receive(Data(1, b"").encode(), SERVER_PORT, 0.1)
    assert with_options.found.size_bytes == without.found.size_bytes == 0


@pytest.mark.parametrize("code", [0, 1, 2, 8])
def test_any_error_ends_the_file_at_once(code: int) -> None:
    download = _download()
    download.receive(Error(code, "File not found").encode(), SERVER_PORT, 0.1)
    assert download.outcome is Outcome.REFUSED
    assert download.reason == f"TFTP {code}: File not found"


@pytest.mark.parametrize(
    "options",
    [{"blksize": "1469"}, {"blksize": "big"}, {"tsize": "-1"}, {"windowsize": "4"}, {"blksize": "4"}],
    ids=["larger-than-asked", "no-number", "negative", "not-asked-for", "too-small"],
)
def test_an_answer_that_was_not_asked_for_is_a_bad_oack(options: dict[str, str]) -> None:
    download = _download()
    download.receive(_oack(**options), SERVER_PORT, 0.1)
    assert (download.outcome, download.reason) == (Outcome.REFUSED, "BAD OACK")


def test_a_strangers_packets_change_nothing() -> None:
    download = _download()
    download.receive(_oack(blksize="1468"), SERVER_PORT, 0.1)
    download.to_send.clear()
    download.receive(Error(0, "go away").encode(), SERVER_PORT + 1, 0.2)
    download.receive(b"\0", SERVER_PORT, 0.2)
    assert download.outcome is None
    assert download.to_send == []


@pytest.mark.parametrize("profile", [PI5_2025, replace(PI4_2021, name="2020", acks_duplicates=False)])
def test_a_repeated_block_is_acknowledged_again_since_2021(profile: EepromProfile) -> None:
    download = _download(profile=profile)
    download.receive(_oack(blksize="8"), SERVER_PORT, 0.1)
    download.receive(Data(1, bytes(8)).encode(), SERVER_PORT, 0.2)
    download.to_send.clear()
    download.receive(Data(1, bytes(8)).encode(), SERVER_PORT, 0.3)

    assert _sent(download) == ([(SERVER_PORT, Ack(1))] if profile.acks_duplicates else [])


def test_what_is_not_answered_is_sent_again_every_second_until_the_files_deadline() -> None:
    download = _download()
    (request,) = download.to_send
    sent, now = 0, 0.0
    while download.outcome is None:
        download.to_send.clear()
        now = download.next_timeout()
        download.handle_timeout(now)
        sent += len(download.to_send)
        assert download.to_send in ([request], [])

    assert download.outcome is Outcome.TIMED_OUT
    assert now == PI5_2025.settings.tftp_file_timeout_s
    assert sent == PI5_2025.settings.tftp_file_timeout_s / RESEND_S - 1


@pytest.mark.parametrize(("profile", "gets_through"), [(PI5_2025, True), (PI4_2023, False)])
def test_block_numbers_begin_again_at_zero_only_since_september_2025(
    profile: EepromProfile, gets_through: bool
) -> None:
    download = _download(profile=profile)
    download.receive(_oack(blksize="8"), SERVER_PORT, 0.0)
    for number in range(1, 65536):
        download.receive_data(number, bytes(8), 0.1)
    download.to_send.clear()
    download.receive_data(0, b"end", 0.2)

    assert (download.outcome is Outcome.FOUND) is gets_through
    if gets_through:
        assert download.found.size_bytes == 65535 * 8 + 3
        assert _sent(download) == [(SERVER_PORT, Ack(0))]
