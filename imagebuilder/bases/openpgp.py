"""Signatures of download sites, checked by gpgv against pinned primary keys.

What counts is never which keyring a key lies in, but whether the fingerprint that gpgv computed from the key
material is one of those pinned in the catalogue. So key files may come from anywhere, plain HTTP included.

Own parsing is limited to the outer packets of a key file (which keys are in it?) and to the ASCII armour,
which gpgv does not read. Sources: RFC 4880 §4.2 (packet headers), §6.2 (armour), §12.2 (fingerprints);
GnuPG's doc/DETAILS for the status lines.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imagebuilder.errors import ImageBuilderError
from imagebuilder.runner import require_tools, run

TAG_PUBLIC_KEY: Final = 6
MAX_KEY_FILE_BYTES: Final = 16 << 20
_ARMOUR: Final = b"-----BEGIN PGP "
_STATUS: Final = "[GNUPG:] "
TIMEOUT_S: Final = 1800
"""gpgv hashes the whole image: 2 GiB at 1.2 MB/s, a Raspberry Pi reading from a bad SD card, take this
long."""


class KeyFileError(ImageBuilderError):
    """A key file that holds no OpenPGP keys."""


class BadSignature(ImageBuilderError):
    """A signature that is wrong, or by a key that does not count. Never to be overruled."""


@dataclass(frozen=True, slots=True)
class Signer:
    """Whose good signature was found: fingerprint of the primary key, 40 upper-case hex digits."""

    fingerprint: str


def dearmor(data: bytes) -> bytes:
    """The binary form of OpenPGP data, armoured or not. Several armoured blocks are joined.

    Raises:
        KeyFileError: the armour is damaged.
    """
    if _ARMOUR not in data:
        return data
    parts = []
    for block in data.split(_ARMOUR)[1:]:
        lines = block.replace(b"\r", b"").split(b"\n")[1:]
        body, checksum = [], b""
        inside = False
        for line in (line.strip() for line in lines):
            if line.startswith(b"-----END"):
                break
            if not inside:
                inside = line == b""  # headers end at the first empty line
            elif line.startswith(b"=") and len(line) == 5:
                checksum = line[1:]
            else:
                body.append(line)
        try:
            part = base64.b64decode(b"".join(body), validate=True)
            if checksum and base64.b64decode(checksum, validate=True) != _crc24(part).to_bytes(3, "big"):
                raise ValueError("its checksum is wrong")
        except (binascii.Error, ValueError) as exc:
            raise KeyFileError(f"the OpenPGP armour is damaged: {exc}", "Take the file again.") from exc
        parts.append(part)
    return b"".join(parts)


def primary_fingerprints(data: bytes) -> tuple[str, ...]:
    """Fingerprints of the primary keys (version 4) in binary OpenPGP data; none where it is something
    else."""
    found = []
    for tag, body in _packets(data):
        if tag == TAG_PUBLIC_KEY and body[:1] == b"\x04":
            head = b"\x99" + len(body).to_bytes(2, "big")
            # RFC 4880 defines the fingerprint as SHA-1; finding a second key for a given one is still
            # infeasible
            found.append(hashlib.sha1(head + body, usedforsecurity=False).hexdigest().upper())
    return tuple(found)


def read_key_file(path: Path) -> bytes:
    """The keys in a file, in binary form.

    Raises:
        KeyFileError: it cannot be read, or holds none.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_FILE_BYTES)
    except OSError as exc:
        raise KeyFileError(f"{path}: cannot be read: {exc.strerror}", "Name a file of OpenPGP keys.") from exc
    keys = dearmor(data)
    if not primary_fingerprints(keys):
        raise KeyFileError(
            f"{path}: holds no OpenPGP public keys",
            "Give the publisher's public key, as 'gpg --export' or '--export --armor' writes it.",
        )
    return keys


def check_signature(
    signed: Path,
    signature: bytes,
    keys: Sequence[bytes],
    pinned: Iterable[str],
    *,
    name: str | None = None,
) -> Signer:
    """Who of the pinned signers signed a file.

    Args:
        signed: the file.
        signature: the detached signature, armoured or binary; may hold several.
        keys: key material, binary; others than the pinned ones in it do no harm.
        pinned: fingerprints of the primary keys that count.
        name: what to call the file in errors.

    Raises:
        MissingTool: gpgv is not installed.
        BadSignature: no signature of a pinned key is good, or one is bad.
    """
    require_tools("gpgv")
    wanted = tuple(pinned)
    with tempfile.TemporaryDirectory(prefix="bramble-gpgv-") as scratch:
        work = Path(scratch)
        (work / "sig").write_bytes(dearmor(signature))
        (work / "keys.gpg").write_bytes(b"".join(keys))
        argv = ["gpgv", "--homedir", scratch, "--status-fd", "1", "--keyring", f"{work / 'keys.gpg'}"]
        # gpgv's exit code is no verdict: it is 2 as soon as one of several signatures is by an unknown key
        done = run([*argv, work / "sig", signed], check=False, timeout_s=TIMEOUT_S)
        status = done.stdout.decode(errors="replace")
    return judge(status, wanted, name or signed.name)


def judge(status: str, pinned: Sequence[str], what: str) -> Signer:
    """The verdict over gpgv's status lines.

    Args:
        status: the lines of ``--status-fd``.
        pinned: fingerprints of the primary keys that count.
        what: what was signed, for errors.

    Raises:
        BadSignature
    """
    good = False
    reasons: list[str] = []
    for words in (line.removeprefix(_STATUS).split() for line in status.splitlines() if _STATUS in line):
        match words:
            case ["BADSIG", key, *_]:
                raise _bad(what, f"the signature by key {key} does not fit the file: one of them was changed")
            case ["EXPKEYSIG", key, *_]:
                reasons.append(f"key {key} has expired")
            case ["EXPSIG", key, *_]:
                reasons.append(f"the signature by key {key} has expired")
            case ["REVKEYSIG", key, *_]:
                reasons.append(f"key {key} was revoked")
            case ["ERRSIG", key, *_]:
                reasons.append(f"the signature is by key {key}, which is not among the publisher's")
            case ["NEWSIG", *_]:
                good = False
            case ["GOODSIG", *_]:
                good = (
                    True  # VALIDSIG follows; it also follows EXPKEYSIG and REVKEYSIG, where it proves nothing
                )
            case ["VALIDSIG", fingerprint, *rest] if good:
                # Fields after the fingerprint: date, times, versions, …; the last is the primary key's.
                primary = rest[-1] if rest and len(rest[-1]) == 40 else fingerprint
                if primary in pinned:
                    return Signer(primary)
                reasons.append(f"the signature is by key {primary}, which is not one of the publisher's")
            case _:
                pass
    raise _bad(what, "; ".join(dict.fromkeys(reasons)) or "there is no signature in the signature file")


def _bad(what: str, reason: str) -> BadSignature:
    return BadSignature(
        f"{what}: {reason}",
        "Do not use this file. If the publisher changed keys, a newer Bramble knows; else try another "
        "--mirror.",
    )


def _packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and body of each packet, up to the first that is not well formed."""
    position = 0
    while position + 2 <= len(data):
        head = data[position]
        if not head & 0x80:
            return
        if head & 0x40:
            tag, first = head & 0x3F, data[position + 1]
            if first < 192:
                length, start = first, position + 2
            elif first < 224:
                length = ((first - 192) << 8) + int.from_bytes(data[position + 2 : position + 3]) + 192
                start = position + 3
            elif first == 255:
                length, start = int.from_bytes(data[position + 2 : position + 6]), position + 6
            else:
                return  # partial lengths do not occur in keys
        else:
            tag, size = (head >> 2) & 0xF, head & 3
            if size == 3:
                return
            start = position + 1 + (1 << size)
            length = int.from_bytes(data[position + 1 : start])
        if start + length > len(data):
            return
        yield tag, data[start : start + length]
        position = start + length


def _crc24(data: bytes) -> int:
    """The armour's checksum. Source: RFC 4880 §6.1."""
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc & 0xFFFFFF
