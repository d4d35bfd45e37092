"""Device keys: is what a caller shows the key of its board's own firmware? And where such keys come from.

A board's firmware may hold a P-256 key in OTP memory that signs but does not leave it. Once such a key is on
record for a board, or for a node, nothing else will do for it. Keys come on record in two ways: a person
imports what the line that made the boards has written (`<serial>.pub`), or a board that a person vouched for
shows one (`fleet.enrolment` decides).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from agent.proofs import device_message
from agent.protocol import DeviceProof, Hello, Welcome
from fleet.boards import BoardError, Serial
from fleet.enrolment import DeviceStanding
from fleet.errors import FleetError
from fleet.store.trust import TrustReads
from fleet.trust.pki import key_sha256

MAX_KEY_BYTES: Final = 2048
"""A P-256 public key is 91 bytes of DER, 178 of PEM."""
P256_BYTES: Final = 32
SUFFIX: Final = ".pub"


class DeviceKeyError(FleetError, ValueError):
    """Files of device keys that can not be imported; the message has a line for each."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a caller showed. `sha256` is None where it showed nothing, or nothing that holds."""

    sha256: str | None
    is_false: bool = False


def verify(proof: DeviceProof | None, hello: Hello, welcome: Welcome) -> Shown:
    """Check the signature over this very conversation."""
    if proof is None:
        return Shown(None)
    try:
        key = parse_public_key(bytes.fromhex(proof.public_key))
        signature = _as_der(bytes.fromhex(proof.signature))
        key.verify(signature, device_message(hello, welcome), ec.ECDSA(hashes.SHA256()))
    except (ValueError, InvalidSignature):
        return Shown(None, is_false=True)
    return Shown(key_sha256(key))


def _as_der(signature: bytes) -> bytes:
    """The signature as DER (RFC 3279 §2.2.3).

    The firmware's tool does not say whether it writes that, or both numbers of 32 bytes (IEEE P1363).
    """
    if len(signature) != 2 * P256_BYTES:
        return signature
    first, second = (int.from_bytes(half, "big") for half in (signature[:P256_BYTES], signature[P256_BYTES:]))
    return encode_dss_signature(first, second)


def standing_of(reader: TrustReads, shown: Shown, *, board: str | None, node: str | None) -> DeviceStanding:
    """What the caller's key is worth.

    The node's own key counts before the board's: who shows the node's MAC beside another serial must not get
    past it. A key that is on record for another board is false here, whoever can sign with it.
    """
    if shown.is_false:
        return DeviceStanding.FALSE
    known = reader.device_keys(board=board, node=node)
    if not known:
        if shown.sha256 is None:
            return DeviceStanding.NONE
        return DeviceStanding.FALSE if reader.device_key(shown.sha256) else DeviceStanding.NEW
    if shown.sha256 is None:
        return DeviceStanding.MISSING
    return DeviceStanding.PROVEN if shown.sha256 == known[0].key_sha256 else DeviceStanding.FALSE


def parse_public_key(data: bytes) -> ec.EllipticCurvePublicKey:
    """A P-256 public key, SubjectPublicKeyInfo in DER or PEM.

    Raises:
        ValueError: It is none; the text says what it is instead.
    """
    if len(data) > MAX_KEY_BYTES:
        raise ValueError(f"it has {len(data)} bytes, a P-256 public key has fewer than 200")
    is_pem = data.lstrip().startswith(b"-----BEGIN")
    load = serialization.load_pem_public_key if is_pem else serialization.load_der_public_key
    try:
        key = load(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("it is no public key in PEM or DER") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("it is a key of another kind, P-256 is expected")
    if not isinstance(key.curve, ec.SECP256R1):
        raise ValueError(f"it is a key on {key.curve.name}, P-256 (secp256r1) is expected")
    return key


def read_directory(directory: Path) -> dict[str, str]:
    """Read every `<serial>.pub` of a directory: low half of the serial → SHA-256 of the key.

    Raises:
        DeviceKeyError: A file is not named by a serial, holds no P-256 public key, or two files contradict
            one another; all of them are named at once.
    """
    problems: list[str] = []
    found: dict[str, tuple[str, str]] = {}
    try:
        files = sorted(path for path in directory.iterdir() if path.name.endswith(SUFFIX))
    except OSError as error:
        raise DeviceKeyError(f"{directory} can not be read: {error.strerror}") from error
    for path in files:
        try:
            board = Serial.parse(path.name.removesuffix(SUFFIX)).prefix
            digest = key_sha256(parse_public_key(_read_small(path)))
        except BoardError as error:
            problems.append(f"{path.name}: the name is no serial: {error.message}")
            continue
        except (OSError, ValueError) as error:
            problems.append(f"{path.name}: {error}")
            continue
        name, other = found.setdefault(board, (path.name, digest))
        if other != digest:
            problems.append(f"{path.name}: {name} has another key for the same board")
    problems += _shared(found)
    if not files:
        problems.append(f"no file's name ends in {SUFFIX}")
    if problems:
        raise DeviceKeyError(
            f"{directory}: nothing was imported\n  " + "\n  ".join(problems),
            "A file <serial>.pub holds the P-256 public key of that board's firmware, in PEM or DER.",
        )
    return {board: digest for board, (_name, digest) in found.items()}


def _shared(found: Mapping[str, tuple[str, str]]) -> list[str]:
    """Two boards can not have one key: OTP keys are made on the board."""
    first: dict[str, str] = {}
    problems = []
    for name, digest in found.values():
        other = first.setdefault(digest, name)
        if other != name:
            problems.append(f"{name}: the same key as {other}, but a device key is one board's alone")
    return problems


def _read_small(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_KEY_BYTES + 1)
