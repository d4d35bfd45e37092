"""Boards with and without a device key, and two that claim one place, for the tests of admission."""

from __future__ import annotations

import dataclasses
import hashlib

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fakes_fleet import AgentKey, Fleet, agent_hello, hardware_of, installer_hello

from agent.proofs import device_message, fingerprint
from agent.protocol import DeviceProof, Hardware, Hello, Proof, ProofKind, Verdict, Welcome, ticket_proof
from fleet.spec.model import NodeSpec
from fleet.trust.pki import key_sha256


class DeviceKey:
    """A key as a board's firmware holds it."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())

    @property
    def sha256(self) -> str:
        return key_sha256(self.key.public_key())

    @property
    def der(self) -> bytes:
        return self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def prove(self, hello: Hello, welcome: Welcome) -> DeviceProof:
        signature = self.key.sign(device_message(hello, welcome), ec.ECDSA(hashes.SHA256()))
        return DeviceProof(self.der.hex(), signature.hex())


@dataclasses.dataclass
class Board:
    """A board that speaks for itself: what it says it is, and what it can prove."""

    fleet: Fleet
    hardware: Hardware
    device: DeviceKey | None = None
    session_key: bytes = b"k" * 32
    key: AgentKey = dataclasses.field(default_factory=AgentKey)
    intent: int = 1

    @property
    def session_key_fingerprint(self) -> str:
        """What its screen shows."""
        return fingerprint(hashlib.sha256(self.session_key).hexdigest())

    def install(self) -> Verdict:
        """Its installer asks."""
        hello = installer_hello(self.hardware, self.session_key, intent=self.intent)
        welcome = self.fleet.controller.admission.hello(hello)
        proof = Proof(welcome.session, ProofKind.NONE, installer_key=self.session_key.hex())
        return self.fleet.controller.admission.prove(self._with_device(proof, hello, welcome), None)

    def enrol(self, *, ticket: str | None = None, certificate: str | None = None) -> Verdict:
        """Its agent asks: with a ticket, with a certificate (its serial number), or with neither."""
        hello = agent_hello(self.hardware, self.key)
        welcome = self.fleet.controller.admission.hello(hello)
        proof = Proof(welcome.session, ProofKind.NONE, csr_pem=self.key.csr_pem)
        if ticket is not None:
            value = ticket_proof(ticket, hello, welcome)
            proof = dataclasses.replace(proof, kind=ProofKind.TICKET, value=value)
        elif certificate is not None:
            proof = dataclasses.replace(proof, kind=ProofKind.PREVIOUS)
        proof = self._with_device(proof, hello, welcome)
        return self.fleet.controller.admission.prove(proof, certificate)

    def _with_device(self, proof: Proof, hello: Hello, welcome: Welcome) -> Proof:
        device = self.device.prove(hello, welcome) if self.device else None
        return dataclasses.replace(proof, device=device)


def board_of(fleet: Fleet, node: NodeSpec, device: DeviceKey | None = None) -> Board:
    """The node's own board."""
    return Board(fleet, hardware_of(node), device)


def rogue_of(board: Board, *, mac: str | None = None, serial: str | None = None) -> Board:
    """Another machine that shows the board's serial and MAC, or those given; its keys are its own."""
    shown = board.hardware
    if mac is not None:
        shown = dataclasses.replace(shown, macs=(mac,))
    if serial is not None:
        shown = dataclasses.replace(shown, serial=serial)
    own = hashlib.sha256(board.session_key).digest()
    return Board(board.fleet, shown, None, own, intent=board.intent)
