#!/usr/bin/env python3
"""A stand-in for rpi-fw-crypto, for virtual boards: it says that it is one.

Same command line, outputs, exit statuses and error words as far as Bramble uses them. The "OTP memory" is a
file of 64 hex digits, the key's private number; zeros are a blank row, as in a new board. It is
$BRAMBLE_STAND_IN_OTP, else the property `bramble-stand-in-otp` of the device tree. Nothing of it protects a
key: it is for tests and virtual boards. Needs Python >= 3.10 and the openssl command.

Source: raspberrypi/utils, rpifwcrypto (main.c, rpifwcrypto.h, read 2026-11); RFC 5915 §3 for the key's form.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

NOTICE = "stand-in for rpi-fw-crypto: no firmware and no OTP memory is used"
DEVICE_TREE = Path("/proc/device-tree/bramble-stand-in-otp")
DEVICE_KEY_ID = "1"
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of P-256. Source: SEC 2 §2.4.2."""
KEY_NOT_FOUND, KEY_OTP_ERROR, KEY_NOT_SET = 3, 5, 6
"""Source: RPI_FW_CRYPTO_STATUS in rpifwcrypto.h."""
_WORDS = {KEY_NOT_FOUND: "Key not found", KEY_OTP_ERROR: "Key OTP error", KEY_NOT_SET: "Key not set"}
_HEAD, _TAIL = bytes.fromhex("30310201010420"), bytes.fromhex("a00a06082a8648ce3d030107")
"""ECPrivateKey around the 32 bytes of the number: version 1, and the curve."""
FAILED = 255
"""What the tool's `return -1` becomes."""


class FirmwareError(Exception):
    """The firmware's verdict, by its number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"Last crypto error: {number} ({_WORDS[number]})")


def main(arguments: list[str]) -> int:
    """Carry out one command."""
    print(NOTICE, file=sys.stderr)
    options = dict(zip(arguments[1::2], arguments[2::2], strict=False))
    try:
        match arguments:
            case ["get-num-otp-keys"]:
                print("Number of OTP keys: 1")
            case ["get-key-status", key]:
                read_key(key)
                print(f"Key {key} status: 0x00000001 (DEVICE)")
            case ["pubkey", *_] if "--key-id" in options:
                private = der(read_key(options["--key-id"]))
                argv = ("pkey", "-inform", "DER", "-pubout", "-outform", "DER")
                write(openssl(*argv, data=private), options)
            case ["sign", *_] if {"--in", "--key-id", "--alg"} <= options.keys():
                if options["--alg"] != "ec":
                    print(f"Unsupported algorithm: {options['--alg']}", file=sys.stderr)
                    return FAILED
                write(sign(read_key(options["--key-id"]), options["--in"]), options)
            case ["genkey", *_] if {"--key-id", "--alg"} <= options.keys():
                make_key(options["--key-id"])
                print(f"Successfully generated ECDSA key in slot {options['--key-id']}")
            case _:
                print("Usage: rpi-fw-crypto <command> [args]", file=sys.stderr)
                return 1
    except FirmwareError as error:
        print(error, file=sys.stderr)
        return FAILED
    return 0


def otp_file() -> Path:
    return Path(os.environ["BRAMBLE_STAND_IN_OTP"]) if "BRAMBLE_STAND_IN_OTP" in os.environ else DEVICE_TREE


def read_key(key_id: str) -> bytes:
    """The private number.

    Raises:
        FirmwareError: no such key, or the row is blank or unreadable.
    """
    if key_id != DEVICE_KEY_ID:
        raise FirmwareError(KEY_NOT_FOUND)
    try:
        number = bytes.fromhex(otp_file().read_text().strip("\0\n "))
    except (OSError, ValueError):
        raise FirmwareError(KEY_OTP_ERROR) from None
    if not any(number):
        raise FirmwareError(KEY_NOT_SET)
    return number


def make_key(key_id: str) -> None:
    """Burn a key into a blank row; a row that holds one is never written again."""
    try:
        read_key(key_id)
    except FirmwareError as error:
        if _WORDS[KEY_NOT_SET] not in str(error):
            raise
    else:
        raise FirmwareError(KEY_OTP_ERROR)
    otp_file().write_text(f"{1 + secrets.randbelow(ORDER - 1):064x}\n")


def sign(number: bytes, file: str) -> bytes:
    key = Path(f"/proc/self/fd/{os.memfd_create('key')}")
    key.write_bytes(der(number))
    passed = int(key.name)
    return openssl("dgst", "-sha256", "-keyform", "DER", "-sign", str(key), file, keep=(passed,))


def der(number: bytes) -> bytes:
    """ECPrivateKey without the public half, which openssl works out."""
    return _HEAD + number + _TAIL


def openssl(*arguments: str, data: bytes = b"", keep: tuple[int, ...] = ()) -> bytes:
    argv = ["openssl", *arguments]
    return subprocess.run(argv, input=data, stdout=subprocess.PIPE, check=True, pass_fds=keep).stdout


def write(data: bytes, options: dict[str, str]) -> None:
    shown = data.hex().encode() if options.get("--outform") == "hex" else data
    if "--out" in options:
        Path(options["--out"]).write_bytes(shown)
    else:
        sys.stdout.buffer.write(shown)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
