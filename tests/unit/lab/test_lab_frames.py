from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.frames import MTU_BYTES, Arp, FrameError, Udp, checksum, parse_frame, render_arp, render_udp

MAC_A, MAC_B = bytes.fromhex("2ccf67123456"), bytes.fromhex("525400000001")
IP_A, IP_B = IPv4Address("10.77.0.50"), IPv4Address("10.77.0.1")


def _udp(payload: bytes) -> Udp:
    return Udp(
        source_mac=MAC_A,
        target_mac=MAC_B,
        source_ip=IP_A,
        target_ip=IP_B,
        source_port=49152,
        target_port=69,
        payload=payload,
    )


def test_checksum_of_the_example_in_rfc_1071() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2


@given(st.binary(max_size=1472))
def test_udp_survives_the_wire_and_its_checksums_hold(payload: bytes) -> None:
    frame = render_udp(_udp(payload))

    assert parse_frame(frame) == _udp(payload)
    assert checksum(frame[14:34]) == 0
    pseudo = frame[26:34] + b"\0\x11" + frame[38:40]
    assert checksum(pseudo + frame[34:]) == 0


def test_padding_behind_a_short_frame_is_not_payload() -> None:
    assert parse_frame(render_udp(_udp(b"abc")) + bytes(20)) == _udp(b"abc")


def test_arp_request_goes_to_everybody_and_a_reply_to_its_target() -> None:
    request = Arp(
        operation=Arp.REQUEST, sender_mac=MAC_A, sender_ip=IP_A, target_mac=bytes(6), target_ip=IP_B
    )
    reply = Arp(operation=Arp.REPLY, sender_mac=MAC_B, sender_ip=IP_B, target_mac=MAC_A, target_ip=IP_A)

    assert render_arp(request)[:6] == b"\xff" * 6
    assert render_arp(reply)[:6] == MAC_A
    assert parse_frame(render_arp(request)) == request
    assert parse_frame(render_arp(reply)) == reply


def test_a_fragment_and_other_protocols_are_nothing_to_a_boot_rom() -> None:
    frame = bytearray(render_udp(_udp(b"x")))
    frame[20] = 0x20  # more fragments
    assert parse_frame(bytes(frame)) is None
    frame[20], frame[23] = 0, 1  # ICMP
    assert parse_frame(bytes(frame)) is None
    assert parse_frame(bytes(12) + b"\x86\xdd" + bytes(60)) is None


@pytest.mark.parametrize("size", [15, 33, 41])
def test_a_frame_cut_short_is_an_error(size: int) -> None:
    with pytest.raises(FrameError):
        parse_frame(render_udp(_udp(b"hello"))[:size])


@given(st.binary(max_size=64), st.sampled_from([b"\x08\x00", b"\x08\x06", b"\x86\xdd"]))
def test_any_bytes_parse_or_raise_frame_error(rest: bytes, ethertype: bytes) -> None:
    try:
        parse_frame(MAC_A + MAC_B + ethertype + rest)
    except FrameError:
        return


def test_a_datagram_beyond_the_mtu_is_refused() -> None:
    with pytest.raises(FrameError, match="do not fit"):
        render_udp(_udp(bytes(MTU_BYTES - 27)))
