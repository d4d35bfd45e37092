"""boot.sig, and the key behind it.

    <SHA-256 of boot.img>      64 hexadecimal digits
    ts: <Unix seconds>
    rsa2048: <signature>       RSA PKCS#1 v1.5 over SHA-256; left out without a key

Source: usbboot, `secure-boot-example/boot.sig`; rpi-eeprom, `rpi-eeprom-digest`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256

from imagebuilder.errors import ImageBuilderError

KEY_BITS: Final = 2048
_HINT: Final = "Make one with: bramble boot-image --new-key KEY.pem"


class SigningKeyError(ImageBuilderError):
    """A key with which no boot image can be signed."""


def load_signing_key(path: Path) -> rsa.RSAPrivateKey:
    """Read an RSA key of 2048 bits from a PEM file.

    Raises:
        SigningKeyError: It is no such key, is protected by a passphrase, or can not be read.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as exc:
        raise SigningKeyError(f"{path} can not be read: {exc.strerror}", _HINT) from exc
    except TypeError as exc:
        raise SigningKeyError(
            f"{path} is protected by a passphrase",
            "Take it off for the build: openssl rsa -in KEY.pem -out PLAIN.pem",
        ) from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise SigningKeyError(f"{path} is no private key in PEM form", _HINT) from exc
    if not isinstance(key, rsa.RSAPrivateKey):
        raise SigningKeyError(f"{path} is no RSA key, and the bootloader knows no other", _HINT)
    if key.key_size != KEY_BITS:
        raise SigningKeyError(
            f"{path} is an RSA key of {key.key_size} bits, the bootloader takes {KEY_BITS}", _HINT
        )
    return key


def make_signing_key(path: Path) -> Path:
    """Write a new private key, readable by its owner only, and its public half beside it (`.pub.pem`).

    Raises:
        SigningKeyError: One of the files is there already, or can not be written.
    """
    public = path.with_suffix(".pub.pem")
    key = rsa.generate_private_key(65537, KEY_BITS)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for place, data, mode in ((path, secret, 0o600), (public, public_key_pem(key), 0o644)):
        try:
            descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except OSError as exc:
            raise SigningKeyError(
                f"{place} can not be written: {exc.strerror}",
                "A key is never overwritten: boards that hold its public half would start nothing any more.",
            ) from exc
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    return public


def public_key_pem(key: rsa.RSAPrivateKey) -> bytes:
    """The public half, as `rpi-eeprom-config --pubkey` takes it."""
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def render_signature(sha256: str, timestamp: int, key: rsa.RSAPrivateKey | None) -> str:
    """The text of boot.sig.

    Args:
        sha256: Of boot.img, hexadecimal.
        timestamp: Unix seconds.
        key: None for the unsigned form, which proves nothing but the bytes.
    """
    lines = [sha256, f"ts: {timestamp}"]
    if key is not None:
        signature = key.sign(bytes.fromhex(sha256), padding.PKCS1v15(), utils.Prehashed(SHA256()))
        lines.append(f"rsa2048: {signature.hex()}")
    return "\n".join(lines) + "\n"
