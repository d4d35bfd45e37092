"""boot.sig and pieeprom.sig: a digest, a timestamp, and for boot images an RSA signature over the file.

    902be6c4…            SHA-256 of the file, 64 hexadecimal digits
    ts: 1734010524       Unix seconds
    rsa2048: 285da4d2…   RSA PKCS#1 v1.5 over SHA-256, 512 hexadecimal digits; only in signed ones

Verification is plain arithmetic (RFC 8017 §8.2.2), so that it shares no code with what signs.

Source: usbboot, `secure-boot-example/boot.sig`; rpi-eeprom, `rpi-eeprom-digest`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

RSA_BYTES: Final = 256
MAX_FILE_BYTES: Final = 1024
_DIGEST_INFO: Final = bytes.fromhex("3031300d060960864801650304020105000420")
"""DER of the DigestInfo of SHA-256, before the digest (RFC 8017 §9.2 note 1)."""


class SignatureFileError(Exception):
    """A .sig file that the firmware can not use, or that does not belong to its file."""


@dataclass(frozen=True, slots=True)
class RsaPublicKey:
    """A public key as the EEPROM holds it: modulus and exponent."""

    n: int
    e: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureFile:
    """A parsed .sig file; `rsa2048` is None for an unsigned one."""

    sha256: str
    timestamp: int
    rsa2048: bytes | None


def parse_signature_file(data: bytes) -> SignatureFile:
    """Read a .sig file.

    Raises:
        SignatureFileError: No digest, or a field that is not of its form.
    """
    if len(data) > MAX_FILE_BYTES:
        raise SignatureFileError(f"{len(data)} bytes, a .sig file has at most {MAX_FILE_BYTES}")
    lines = data.decode("ascii", "replace").splitlines()
    digest = lines[0].strip() if lines else ""
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise SignatureFileError("the first line is not a SHA-256")
    fields = dict(line.split(":", 1) for line in lines[1:] if ":" in line)
    timestamp = fields.get("ts", "0").strip()
    if not re.fullmatch(r"[0-9]{1,12}", timestamp):
        raise SignatureFileError(f"ts {timestamp!r} is not a number")
    signature = fields.get("rsa2048", "").strip()
    if signature and not re.fullmatch(r"[0-9a-f]{512}", signature):
        raise SignatureFileError("rsa2048 is not 512 hexadecimal digits")
    return SignatureFile(
        sha256=digest,
        timestamp=int(timestamp),
        rsa2048=bytes.fromhex(signature) if signature else None,
    )


def verify(signature: SignatureFile, data: bytes, key: RsaPublicKey | None) -> None:
    """Check that a file is the one that was signed, by the owner of `key`.

    Raises:
        SignatureFileError: It is not, or there is no key or no signature.
    """
    digest = hashlib.sha256(data).digest()
    if digest.hex() != signature.sha256:
        raise SignatureFileError("the file has another SHA-256 than the .sig file says")
    if key is None:
        raise SignatureFileError("the EEPROM holds no public key")
    if signature.rsa2048 is None:
        raise SignatureFileError("the .sig file holds no signature")
    padding = b"\xff" * (RSA_BYTES - 3 - len(_DIGEST_INFO) - len(digest))
    expected = b"\0\x01" + padding + b"\0" + _DIGEST_INFO + digest
    opened = pow(int.from_bytes(signature.rsa2048, "big"), key.e, key.n)
    if opened.to_bytes(max(RSA_BYTES, -(-key.n.bit_length() // 8)), "big") != expected:
        raise SignatureFileError("the signature is not by the key in the EEPROM")
