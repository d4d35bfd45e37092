"""The whole network mode against a model server: in order, with losses, and when the server misbehaves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fakes_boot_server import BOARD_IP, SERVER_IP, SERVER_MAC, ModelServer, run_boot
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.boards import BoardModel, MacAddress, Serial
from lab.bootloader.client import FIRST_PORT, NetworkBoot
from lab.bootloader.files import BoardStuckError, BootFiles, ModeFailedError
from lab.bootloader.profile import BoardIdentity, EepromProfile, default_profile
from lab.events import EventKind, Notice
from lab.frames import Arp, parse_frame, render_arp

SERIAL = Serial.parse("10000000d03114aa")
S = SERIAL.prefix
FILES = {
    "config.txt": b"kernel=kernel8.img\nauto_initramfs=1\n",
    "start4.elf": b"firmware",
    "bcm2711-rpi-4-b.dtb": b"dtb",
    "bcm2712-rpi-5-b.dtb": b"dtb",
    "kernel8.img": bytes(range(256)) * 40,
    "initramfs8": b"i" * 1468 * 3,
    "cmdline.txt": b"root=/dev/ram0",
}
PREFIXED = {f"{S}/{name}": data for name, data in FILES.items()} | {
    f"{S}//{name}": data for name, data in FILES.items()
}


def _boot(model: BoardModel = BoardModel.PI5, profile: EepromProfile | None = None) -> NetworkBoot:
    board = BoardIdentity(
        model=model,
        serial=SERIAL,
        mac=MacAddress.parse("2c:cf:67:12:34:56"),
        revision=model.revision_codes[-1],
    )
    return NetworkBoot(board, profile or default_profile(model), xid=7, first_port=FIRST_PORT, now=0.0)


def _notices(boot: NetworkBoot) -> Iterator[Notice]:
    while notice := boot.next_notice():
        yield notice


@pytest.mark.parametrize("model", [BoardModel.PI4, BoardModel.PI5])
def test_a_board_boots_from_a_model_server(model: BoardModel) -> None:
    boot, server = _boot(model), ModelServer(PREFIXED)
    seconds = run_boot(boot, server)

    assert isinstance(boot.outcome, BootFiles)
    assert boot.outcome.kernel == FILES["kernel8.img"]
    assert boot.outcome.cmdline == "root=/dev/ram0"
    assert seconds < 1.0
    notices = list(_notices(boot))
    assert [n.kind for n in notices[:3]] == [
        EventKind.DHCP_DISCOVER,
        EventKind.DHCP_OFFER,
        EventKind.DHCP_BOUND,
    ]
    assert any(n.kind is EventKind.FILE_MISSING and "pieeprom.sig" in n.text for n in notices)


def test_a_server_that_knows_no_options_is_enough() -> None:
    boot, server = _boot(), ModelServer(FILES)
    server.ignores_options = True
    run_boot(boot, server)
    assert isinstance(boot.outcome, BootFiles)
    assert boot.outcome.kernel == FILES["kernel8.img"]


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from([0, 0, 1, 1, 1, 1, 1, 2]), max_size=150),
    st.sampled_from([BoardModel.PI4, BoardModel.PI5]),
)
def test_losses_and_duplicates_end_in_the_same_files(fates: list[int], model: BoardModel) -> None:
    """After the drawn fates the wire is sound, so every transfer ends well within the file's deadline."""
    boot, server = _boot(model), ModelServer(PREFIXED)
    drawn = iter(fates)
    run_boot(boot, server, copies=lambda: next(drawn, 1))

    if isinstance(boot.outcome, BootFiles):
        assert boot.outcome.kernel == FILES["kernel8.img"]
        assert boot.outcome.cmdline == "root=/dev/ram0"
    else:
        # Only where packets of one file were lost until its 30 s, or the server's tries, ran out.
        assert fates.count(0) >= 8


def test_a_dead_wire_fails_the_mode_after_the_dhcp_timeout() -> None:
    boot = _boot()
    seconds = run_boot(boot, ModelServer(PREFIXED), copies=lambda: 0)
    assert isinstance(boot.outcome, ModeFailedError)
    assert seconds == pytest.approx(45.0)


def test_an_installed_board_is_at_its_next_mode_within_milliseconds() -> None:
    for model in (BoardModel.PI4, BoardModel.PI5):
        boot, server = _boot(model), ModelServer({})
        assert run_boot(boot, server) < 0.1
        assert isinstance(boot.outcome, ModeFailedError)


def test_offers_without_boot_options_leave_the_board_waiting() -> None:
    boot = _boot()
    seconds = run_boot(boot, ModelServer(PREFIXED, offers_boot=False))
    assert isinstance(boot.outcome, ModeFailedError)
    assert "option 66 or 43" in str(boot.outcome)
    assert seconds == pytest.approx(45.0)


@pytest.mark.parametrize(
    ("model", "silent", "error"),
    [
        (BoardModel.PI5, f"{S}/config.txt", ModeFailedError),
        (BoardModel.PI5, f"{S}//kernel8.img", BoardStuckError),
        (BoardModel.PI4, f"{S}/start4.elf", ModeFailedError),
        (BoardModel.PI4, f"{S}/kernel8.img", BoardStuckError),
    ],
)
def test_silence_costs_thirty_seconds_and_late_in_the_boot_the_board(
    model: BoardModel, silent: str, error: type[Exception]
) -> None:
    boot, server = _boot(model), ModelServer(PREFIXED)
    server.silent_about = {silent}
    seconds = run_boot(boot, server)
    assert isinstance(boot.outcome, error)
    assert silent in str(boot.outcome)
    assert 30.0 <= seconds < 31.0


def test_every_download_has_a_port_of_its_own_and_the_count_begins_again() -> None:
    board = BoardIdentity(
        model=BoardModel.PI5,
        serial=SERIAL,
        mac=MacAddress.parse("2c:cf:67:12:34:56"),
        revision=BoardModel.PI5.revision_codes[0],
    )
    boot = NetworkBoot(board, default_profile(BoardModel.PI5), xid=7, first_port=65534, now=0.0)
    run_boot(boot, ModelServer(PREFIXED))
    assert isinstance(boot.outcome, BootFiles)


def test_a_first_port_outside_the_range_is_refused() -> None:
    with pytest.raises(ValueError, match="port 1024"):
        NetworkBoot(
            BoardIdentity(
                model=BoardModel.PI5,
                serial=SERIAL,
                mac=MacAddress.parse("2c:cf:67:12:34:56"),
                revision=BoardModel.PI5.revision_codes[0],
            ),
            default_profile(BoardModel.PI5),
            xid=7,
            first_port=1024,
            now=0.0,
        )


def test_it_answers_arp_for_its_own_address_once_it_has_one() -> None:
    boot, server = _boot(), ModelServer(PREFIXED)
    server.silent_about = {f"{S}/config.txt"}
    question = Arp(
        operation=Arp.REQUEST,
        sender_mac=SERVER_MAC,
        sender_ip=SERVER_IP,
        target_mac=bytes(6),
        target_ip=BOARD_IP,
    )
    boot.receive_frame(render_arp(question), 0.0)
    assert not any(isinstance(parse_frame(frame), Arp) for frame in boot.frames_to_send())

    run_boot(boot := _boot(), server, until_s=60.0)
    boot.frames_to_send()
    boot.receive_frame(render_arp(question), 31.0)
    (answer,) = map(parse_frame, boot.frames_to_send())
    assert isinstance(answer, Arp)
    assert (answer.operation, answer.sender_ip, answer.target_mac) == (Arp.REPLY, BOARD_IP, SERVER_MAC)


@given(st.binary(max_size=120))
def test_noise_on_the_wire_is_no_event(noise: bytes) -> None:
    boot = _boot()
    mac = bytes.fromhex("2ccf67123456")
    for head in (mac + SERVER_MAC + b"\x08\x00", b"\xff" * 6 + SERVER_MAC + b"\x08\x06"):
        boot.receive_frame(head + noise, 0.1)
    assert boot.outcome is None
