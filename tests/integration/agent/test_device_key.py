"""The device key from the firmware's tool to the server's decision; the tool is the lab's stand-in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes_fleet import AgentKey, agent_hello, cluster_spec, hardware_of, node_spec
from fakes_fleet_server import Running, running

from agent import commands
from agent.client import AuthorityTrust, ControlClient, PinnedTrust
from agent.commands import CommandError, Completed
from agent.device_key import TOOL, DeviceKey
from agent.enrol import Applicant, Identity, ask
from agent.errors import AgentError
from agent.installer.session import InstallSession
from agent.protocol import Hello, InstallComplete, Outcome, ProofKind, Welcome
from fleet.spec.model import Role
from fleet.trust.device_keys import DeviceKeyError, read_directory, verify
from lab import fw_crypto_stand_in

pytestmark = pytest.mark.integration

SERVER = node_spec("pi5-1", 1, role=Role.SERVER)
HARDWARE = hardware_of(SERVER)
BLANK = "00" * 32


@dataclass
class Firmware:
    """A board's firmware: its OTP memory, and the tool as the agent finds it."""

    otp: Path

    def run(
        self, argv: Sequence[str], *, input_bytes: bytes = b"", timeout_s: float = 30.0, check: bool = True
    ) -> Completed:
        if argv[0] != TOOL:
            return commands.run(argv, input_bytes=input_bytes, timeout_s=timeout_s, check=check)
        place = f"BRAMBLE_STAND_IN_OTP={self.otp}"
        stand_in = [sys.executable, fw_crypto_stand_in.__file__]
        return commands.run(["env", place, *stand_in, *argv[1:]], timeout_s=timeout_s, check=check)

    def tool(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, fw_crypto_stand_in.__file__, *arguments],
            capture_output=True,
            check=False,
            timeout=60,
            env={**os.environ, "BRAMBLE_STAND_IN_OTP": str(self.otp)},
        )


@pytest.fixture
def firmware(tmp_path: Path) -> Firmware:
    otp = tmp_path / "otp"
    otp.write_text(BLANK)
    made = Firmware(otp)
    assert made.tool("genkey", "--key-id", "1", "--alg", "ec").returncode == 0
    return made


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "server", cluster_spec(SERVER)) as one:
        yield one


def conversation() -> tuple[Hello, Welcome]:
    return agent_hello(HARDWARE, AgentKey()), Welcome("5e" * 16, "ab" * 32, 1.0)


def be_admitted(server: Running, firmware: Firmware | None) -> InstallSession:
    """The installer's own conversation; it may not wait for anybody."""

    def no_waiting(seconds: float) -> None:
        raise TimeoutError(f"the installer has to wait {seconds} s")

    client = ControlClient((f"https://127.0.0.1:{server.port}",), PinnedTrust(server.pin))
    try:
        session = InstallSession(
            client,
            HARDWARE,
            intent=1,
            boot_id="boot-1",
            say=lambda _line: None,
            sleep=no_waiting,
            clock=lambda: 0.0,
            prove_device=DeviceKey(firmware.run if firmware else commands.run).prove,
        )
        session.be_admitted()
        plan = session.fetch_plan()
        session.complete(InstallComplete(plan.intent, plan.image.image_id, "/dev/nvme0n1", 1, 1, 1.0))
        return session
    finally:
        client.close()


def import_key(server: Running, firmware: Firmware, directory: Path) -> None:
    """What a provisioning line leaves behind, through the command's own reader."""
    directory.mkdir()
    made = firmware.tool("pubkey", "--key-id", "1", "--out", str(directory / f"{HARDWARE.serial}.pub"))
    assert made.returncode == 0
    keys = read_directory(directory)
    server.in_loop(lambda: server.fleet.controller.people.import_devices(keys))


def test_server_with_an_imported_key_installs_enrols_and_renews_without_a_person(
    server: Running, firmware: Firmware, tmp_path: Path
) -> None:
    import_key(server, firmware, tmp_path / "keys")
    be_admitted(server, firmware)
    ca_pem = server.fleet.pki.ca_pem
    client = ControlClient((f"https://127.0.0.1:{server.port}",), AuthorityTrust(ca_pem=ca_pem))
    identity = Identity(tmp_path / "node", commands.run)
    applicant = Applicant("pi5-1", HARDWARE, "boot-2", None)
    ticket = server.fleet.images.tickets["pi5-1"][-1].reveal()
    prove = DeviceKey(firmware.run).prove
    enrolled = ask(client, identity, applicant, kind=ProofKind.TICKET, ticket=ticket, prove_device=prove)
    assert enrolled.outcome is Outcome.ENROLLED
    own = AuthorityTrust(ca_pem=ca_pem, certificate=identity.certificate, key=identity.key)
    client.trust(own)
    # Whoever has the whole disk, but not the board, gets no new certificate for it.
    stolen = ask(client, identity, applicant, kind=ProofKind.PREVIOUS)
    assert (stolen.outcome, stolen.certificate_pem) == (Outcome.REJECTED, None)
    renewed = ask(client, identity, applicant, kind=ProofKind.PREVIOUS, prove_device=prove)
    assert renewed.outcome is Outcome.ENROLLED
    client.close()


def test_rogue_without_the_key_is_turned_away_in_the_same_window(
    server: Running, firmware: Firmware, tmp_path: Path
) -> None:
    import_key(server, firmware, tmp_path / "keys")
    with pytest.raises(AgentError, match="device key on record and did not prove it"):
        be_admitted(server, None)
    other = Firmware(tmp_path / "other-otp")
    other.otp.write_text(BLANK)
    assert other.tool("genkey", "--key-id", "1", "--alg", "ec").returncode == 0
    with pytest.raises(AgentError, match="not the one on record"):
        be_admitted(server, other)
    be_admitted(server, firmware)


def test_signature_is_over_this_conversation_and_nothing_else(firmware: Firmware) -> None:
    hello, welcome = conversation()
    proof = DeviceKey(firmware.run).prove(hello, welcome)
    assert proof is not None
    assert verify(proof, hello, welcome).sha256 is not None
    other = Welcome(welcome.session, "cd" * 32, welcome.server_time)
    assert verify(proof, hello, other).is_false
    assert verify(proof, agent_hello(HARDWARE, AgentKey()), welcome).is_false


@pytest.mark.parametrize("otp", [BLANK, "not hex", None], ids=["blank", "damaged", "absent"])
def test_board_without_a_key_shows_none(tmp_path: Path, otp: str | None) -> None:
    path = tmp_path / "otp"
    if otp is not None:
        path.write_text(otp)
    assert DeviceKey(Firmware(path).run).prove(*conversation()) is None


def test_board_without_the_tool_shows_none_and_looks_for_it_once() -> None:
    asked: list[str] = []

    def run(argv: Sequence[str], **_kwargs: object) -> Completed:
        asked.append(argv[0])
        raise CommandError(argv, "could not start: the program is not installed")

    device = DeviceKey(run)
    assert [device.prove(*conversation()) for _ in range(3)] == [None, None, None]
    assert asked == [TOOL]


def test_stand_in_says_that_it_is_one_and_never_burns_a_key_twice(firmware: Firmware) -> None:
    first = firmware.otp.read_text()
    again = firmware.tool("genkey", "--key-id", "1", "--alg", "ec")
    assert again.returncode == 255
    assert b"stand-in for rpi-fw-crypto" in again.stderr
    assert firmware.otp.read_text() == first
    assert firmware.tool("pubkey", "--key-id", "2").returncode == 255
    assert firmware.tool("reformat").returncode == 1
    assert b"Number of OTP keys" in firmware.tool("get-num-otp-keys").stdout


def test_import_names_every_file_that_is_none(firmware: Firmware, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    good = firmware.tool("pubkey", "--key-id", "1").stdout
    (keys / "10000000abcd0001.pub").write_bytes(good)
    (keys / "abcd0002.pub").write_bytes(good)
    (keys / "nonsense.pub").write_bytes(good)
    (keys / "abcd0003.pub").write_bytes(b"")
    (keys / "abcd0004.pub").write_bytes(b"x" * 5000)
    rsa = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]
    private = subprocess.run(rsa, capture_output=True, check=True, timeout=60).stdout
    public = subprocess.run(
        ["openssl", "pkey", "-pubout"], input=private, capture_output=True, check=True, timeout=60
    ).stdout
    (keys / "abcd0005.pub").write_bytes(public)
    (keys / "abcd0006.pub").write_bytes(private)
    (keys / "README").write_text("not a key")
    with pytest.raises(DeviceKeyError) as refused:
        read_directory(keys)
    text = refused.value.message
    for words in (
        "abcd0002.pub: the same key as 10000000abcd0001.pub",
        "nonsense.pub: the name is no serial",
        "abcd0003.pub: it is no public key",
        "abcd0004.pub: it has 2049 bytes",
        "abcd0005.pub: it is a key of another kind",
        "abcd0006.pub: it is no public key",
    ):
        assert words in text, words
    assert "README" not in text
