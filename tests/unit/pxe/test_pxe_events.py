"""Events read like sentences, and one line stands for many of the same."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from fleet.boards import MacAddress, Soc
from pxe.boot.identity import BoardIdentity
from pxe.events import (
    AddressConflict,
    AddressDeclined,
    BoardEvent,
    BootFile,
    BootFileMissing,
    BootFileProbed,
    BootProgress,
    DhcpAck,
    DhcpDiscover,
    DhcpOffer,
    ForeignAck,
    ForeignNak,
    ForeignOffer,
    ForeignServerChosen,
    RepeatFilter,
    TransferFailed,
    TransferStatistics,
    format_bytes,
    format_seconds,
)

BOARD = BoardIdentity(serial_low=0x91CDF03D, family=Soc.BCM2712, eeprom_style="5iPR", is_pi=True)
ADDRESS = IPv4Address("10.0.0.21")


def missing(at: float, name: str = "nope") -> BootFileMissing:
    return BootFileMissing(at=at, board=BOARD, node="one", name=name, reason="installed")


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            DhcpDiscover(at=0, board=BOARD, node=None),
            "asks for an address (a Raspberry Pi with BCM2712, serial …91cdf03d, EEPROM style 5iPR)",
        ),
        (
            BootFile(at=0, board=BOARD, node="one", name="start4.elf", size_bytes=2_200_000, seconds=0.41),
            "asked for start4.elf: sent 2.2 MB in 0.4 s",
        ),
        (
            BootFile(
                at=0,
                board=BOARD,
                node="one",
                name="a",
                size_bytes=9,
                seconds=2,
                statistics=TransferStatistics(retransmitted=3),
            ),
            "asked for a: sent 9 bytes in 2.0 s, 3 packets twice",
        ),
        (missing(0), "asked for nope: not found, installed"),
        (
            DhcpAck(at=0, board=BOARD, node="one", address=ADDRESS, lease_s=43200, boots=True),
            "the bootloader has the address 10.0.0.21 for 12 h",
        ),
        (
            DhcpOffer(at=0, board=BOARD, node="one", address=None, answer="it boots its own disk"),
            "told where to boot from; it boots its own disk",
        ),
        (
            TransferFailed(
                at=0, board=BOARD, node="one", name="k", sent_bytes=999, size_bytes=2000, reason="gone"
            ),
            "asked for k: it broke off after 999 bytes of 2.0 kB, gone",
        ),
    ],
    ids=lambda value: value.kind if isinstance(value, BoardEvent) else "",
)
def test_events_are_sentences(event: BoardEvent, text: str) -> None:
    assert event.describe() == text


def test_troubles_say_what_to_do() -> None:
    chosen = ForeignServerChosen(at=0, board=BOARD, node=None, server=ADDRESS, expected=False)
    assert "dhcp: proxy" in chosen.describe()
    assert "fixed address" in AddressDeclined(at=0, board=BOARD, node=None, address=ADDRESS).describe()


ROUTER = IPv4Address("10.0.0.254")


def foreign(address: IPv4Address | None = ADDRESS, *, tftp: str = "", expected: bool = True) -> ForeignOffer:
    return ForeignOffer(
        at=0,
        board=BOARD,
        node=None,
        server=ROUTER,
        source=ROUTER,
        address=address,
        options=(54, 51, 1, 3),
        tftp_server=tftp,
        expected=expected,
    )


def test_a_routers_offer_is_told_and_is_no_trouble_beside_a_proxy() -> None:
    assert foreign().describe() == "another DHCP server, 10.0.0.254, offers the address 10.0.0.21"


def test_a_second_server_is_trouble_in_full_mode_and_when_it_names_a_boot_server() -> None:
    assert "switch it off" in foreign(expected=False).describe()
    assert "names the boot server 10.0.0.9" in foreign(tftp="10.0.0.9").describe()
    assert "switch it off" not in foreign(None, expected=False).describe()
    ack = ForeignAck(at=0, board=BOARD, node=None, server=ROUTER, source=ROUTER, address=ADDRESS, options=())
    assert ack.describe() == "another DHCP server, 10.0.0.254, gives the address 10.0.0.21"


def test_a_foreign_refusal_and_a_taken_address_are_told() -> None:
    nak = ForeignNak(at=0, board=BOARD, node=None, server=ROUTER, reason="wrong network")
    assert nak.describe() == "another DHCP server, 10.0.0.254, refused it its address: wrong network"
    holder = MacAddress.parse("02:00:00:00:00:01")
    conflict = AddressConflict(at=0, board=BOARD, node=None, address=ADDRESS, holder=holder)
    assert "02:00:00:00:00:01 uses it" in conflict.describe()


def test_kinds_are_stable_names() -> None:
    assert missing(0).kind == "boot-file-missing"
    assert foreign().kind == "foreign-offer"


def test_the_same_thing_over_and_over_is_one_line_with_a_count() -> None:
    repeats = RepeatFilter()
    shown = [repeats.admit(missing(at)) for at in range(60)]
    assert [event is not None for event in shown] == [True] + [False] * 59
    later = repeats.admit(missing(60))
    assert later is not None
    assert later.describe().endswith("(and 59 times more)")
    assert repeats.admit(missing(130)) == missing(130)


def test_a_file_read_again_is_one_line_in_one_boot_and_another_in_the_next() -> None:
    def read(at: float) -> BootFile:
        return BootFile(at=at, board=BOARD, node="one", name="config.txt", size_bytes=12, seconds=at / 7)

    repeats = RepeatFilter()
    assert [repeats.admit(read(at)) is not None for at in (0.0, 0.1, 3.0, 15.0)] == [True, False, False, True]


def test_other_files_and_other_boards_are_other_lines() -> None:
    repeats = RepeatFilter()
    other = BootFileMissing(
        at=1, board=BoardIdentity(serial_low=2), node=None, name="nope", reason="installed"
    )
    assert repeats.admit(missing(0)) is not None
    assert repeats.admit(missing(1, "other")) is not None
    assert repeats.admit(other) is not None


def test_what_is_not_for_the_timeline_always_passes() -> None:
    repeats = RepeatFilter()
    probe = BootFileProbed(at=0, board=BOARD, node="one", name="k", size_bytes=1)
    progress = BootProgress(at=0, board=BOARD, node="one", name="k", sent_bytes=1, size_bytes=2)
    for _ in range(2):
        assert repeats.admit(probe) is probe
        assert repeats.admit(progress) is progress


def test_the_memory_of_repeats_is_bounded() -> None:
    repeats = RepeatFilter()
    for number in range(5000):
        repeats.admit(missing(0, f"file-{number}"))
    assert repeats.admit(missing(1, "file-0")) is not None
    assert repeats.admit(missing(1, "file-4999")) is None


def test_numbers_are_for_people() -> None:
    assert [format_bytes(n) for n in (0, 999, 1000, 2_200_000, 5 * 10**9)] == [
        "0 bytes",
        "999 bytes",
        "1.0 kB",
        "2.2 MB",
        "5.0 GB",
    ]
    assert [format_seconds(n) for n in (59, 60, 90, 3600, 5400)] == ["59 s", "1 min", "90 s", "1 h", "90 min"]
