"""What a proof of enrolment is made over, and how a key is shown to people. Shared by both sides; pure.

A proof covers the whole conversation (`transcript_hash`), so it is worth nothing in another one, and begins
with a context of its own, so nothing that was signed for another purpose can stand for it.
"""

from __future__ import annotations

import re

from agent.protocol import Hello, Welcome, transcript_hash

DEVICE_CONTEXT = b"bramble enrolment device key proof v1\0"
"""Domain separation: the firmware's key also signs for other services (Raspberry Pi Connect)."""

FINGERPRINT_DIGITS = 20
"""80 bits: somebody who wants another key with the same fingerprint must try 2^80. Eight digits would take
seconds."""
FINGERPRINT_GROUP = 4
_SEPARATORS = re.compile(r"[-: ]")
_FINGERPRINT = re.compile(rf"[0-9a-f]{{{FINGERPRINT_DIGITS},64}}")


def fingerprint(key_sha256: str) -> str:
    """How a key is shown on screens: `1a2b-3c4d-5e6f-7081-92a3`, the beginning of its SHA-256."""
    digits = key_sha256[:FINGERPRINT_DIGITS]
    return "-".join(digits[at : at + FINGERPRINT_GROUP] for at in range(0, len(digits), FINGERPRINT_GROUP))


def parse_fingerprint(text: str) -> str | None:
    """The hex digits of a fingerprint that a person typed; None where it is too short, or is none."""
    digits = _SEPARATORS.sub("", text.strip().lower())
    return digits if _FINGERPRINT.fullmatch(digits) else None


def device_message(hello: Hello, welcome: Welcome) -> bytes:
    """What the board's firmware signs: context ‖ transcript hash. The firmware signs its SHA-256."""
    return DEVICE_CONTEXT + transcript_hash(hello, welcome)
