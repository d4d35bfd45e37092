"""Faults of the wire, and what every firmware makes of them, on a virtual clock."""

from __future__ import annotations

import pytest
from fakes_boot_server import ModelServer, run_boot

from fleet.boards import BoardModel, MacAddress, Serial
from lab.bootloader.client import FIRST_PORT, NetworkBoot
from lab.bootloader.faults import Action, Fault, FaultyWire, Kind, parse_fault
from lab.bootloader.files import BoardStuckError, BootFiles, ModeFailedError
from lab.bootloader.profile import PI4_2019, PI4_2023, PI5_2025, BoardIdentity, EepromProfile, Family
from pxe.tftp.wire import Ack, Data, Error, OptionAck, Request

S = "d03114aa"
TREE = {
    "config.txt": b"kernel=kernel8.img\n",
    "start4.elf": b"firmware",
    "bcm2711-rpi-4-b.dtb": b"dtb",
    "bcm2712-rpi-5-b.dtb": b"dtb",
    "kernel8.img": bytes(range(256)) * 60,
    "cmdline.txt": b"quiet",
}


class FaultyServer(ModelServer):
    """A server behind a wire with faults, in both directions."""

    def __init__(self, *faults: str) -> None:
        super().__init__(TREE)
        self.wire = FaultyWire(tuple(map(parse_fault, faults)))

    def receive(self, frame: bytes) -> list[bytes]:
        answers = [
            answer for passed in self.wire.pass_frame(frame) for answer in ModelServer.receive(self, passed)
        ]
        return [passed for answer in answers for passed in self.wire.pass_frame(answer)]


def _outcome(profile: EepromProfile, *faults: str) -> tuple[object, float]:
    model = BoardModel.PI4 if profile.family is Family.BCM2711 else BoardModel.PI5
    board = BoardIdentity(
        model=model,
        serial=Serial.parse(S),
        mac=MacAddress.parse("2c:cf:67:12:34:56"),
        revision=model.revision_codes[-1],
    )
    machine = NetworkBoot(board, profile, xid=7, first_port=FIRST_PORT, now=0.0)
    seconds = run_boot(machine, FaultyServer(*faults))
    return machine.outcome, seconds


@pytest.mark.parametrize("profile", [PI4_2019, PI4_2023, PI5_2025], ids=lambda profile: profile.name)
@pytest.mark.parametrize(
    "fault",
    [
        *("lose:ack:1", "lose:ack:every5", "lose:data:2", "lose:data:every4", "lose:oack:1", "lose:rrq:2"),
        *("double:data:every1", "double:ack:every1", "double:rrq:every2", "double:oack:every1"),
        *("lose:dhcp:1", "lose:dhcp:2", "double:dhcp:every1", "lose:arp:1", "lose:any:every9"),
    ],
)
def test_what_a_resend_mends_ends_in_the_same_kernel(profile: EepromProfile, fault: str) -> None:
    outcome, seconds = _outcome(profile, fault)
    assert isinstance(outcome, BootFiles)
    assert outcome.kernel == TREE["kernel8.img"]
    assert seconds < 60.0


def test_a_bad_oack_ends_that_file_as_if_it_were_not_there() -> None:
    outcome, _ = _outcome(PI5_2025, "corrupt:oack:every1")
    assert isinstance(outcome, ModeFailedError)
    assert "config.txt not found" in str(outcome)


@pytest.mark.parametrize(("profile", "error"), [(PI4_2023, BoardStuckError), (PI5_2025, ModeFailedError)])
def test_a_404_late_in_the_boot_is_worse_on_a_pi_4(profile: EepromProfile, error: type[Exception]) -> None:
    """On a Pi 4 start4.elf is on its own by then; a Pi 5's EEPROM can still take the next mode."""
    found = [
        number for number in range(1, 14) if isinstance(_outcome(profile, f"refuse:oack:{number}")[0], error)
    ]
    assert found


@pytest.mark.parametrize("profile", [PI4_2023, PI5_2025], ids=lambda profile: profile.name)
@pytest.mark.parametrize("packet", [5, 12, 25])
def test_a_server_that_falls_silent_costs_the_timeout_of_that_moment(
    profile: EepromProfile, packet: int
) -> None:
    outcome, seconds = _outcome(profile, f"silence:any:{packet}")
    assert isinstance(outcome, ModeFailedError | BoardStuckError)
    assert 30.0 <= seconds <= 46.0


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("lose:ack:3", Fault(Action.LOSE, Kind.ACK, 3)),
        ("double:data:every2", Fault(Action.DOUBLE, Kind.DATA, 2, True)),
        ("cut:any:100", Fault(Action.CUT, Kind.ANY, 100)),
    ],
)
def test_faults_are_written_in_three_words(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    "text",
    ["", "lose", "lose:ack", "lose:ack:0", "lose:ack:-1", "explode:ack:1", "lose:cake:1", "lose:ack:1:2"],
)
def test_what_is_no_fault_is_told_with_all_possibilities(text: str) -> None:
    with pytest.raises(ValueError, match="is no fault; write ACTION:KIND:NUMBER"):
        parse_fault(text)


def test_packets_of_a_socket_pass_the_same_faults() -> None:
    packets = [Request("f").encode(), Ack(0).encode(), Data(1, b"x").encode(), Error(0).encode()]
    wire = FaultyWire(
        (parse_fault("lose:ack:1"), parse_fault("double:data:1"), parse_fault("silence:error:1"))
    )
    assert [len(wire.pass_payload(packet)) for packet in packets] == [1, 0, 2, 0]
    assert wire.is_silent
    assert wire.pass_payload(packets[0]) == []

    cut = FaultyWire((parse_fault("cut:any:2"),))
    assert [len(cut.pass_payload(packet)) for packet in packets] == [1, 0, 0, 0]
    assert cut.is_cut

    refused = FaultyWire((parse_fault("refuse:oack:1"), parse_fault("corrupt:oack:2")))
    oack = OptionAck((("tsize", "1"),)).encode()
    assert refused.pass_payload(oack) == [Error(1, "File not found").encode()]
    assert refused.pass_payload(oack)[0][:2] == b"\0\x06"
    assert refused.pass_payload(oack) == [oack]
