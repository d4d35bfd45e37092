"""Files encrypted with a passphrase, in the format of age v1: what this writes, `age -d` opens.

Pure over streams; randomness comes in as an argument. One kind of recipient is known, `scrypt`.

    age-encryption.org/v1
    -> scrypt SALT LOG2N           base64 without padding; the salt has 16 bytes
    WRAPPED                        the file key (16 bytes), ChaCha20-Poly1305 under the passphrase's key
    --- MAC                        HMAC-SHA-256 over everything up to and including the three dashes
    16 bytes nonce, then chunks of 64 KiB, each ChaCha20-Poly1305 with nonce = 11 bytes counter ‖ last flag

Source: C2SP, "The age file encryption format" (age-encryption.org/v1), read 2026-11.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import io
import re
from collections.abc import Callable
from typing import IO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from fleet.secret import Secret

MAGIC: Final = b"age-encryption.org/v1\n"
CHUNK: Final = 64 * 1024
TAG: Final = 16
WORK_FACTOR: Final = 17
"""log2 of scrypt's N: 128 MiB and about half a second on a Pi 5."""
MAX_WORK_FACTOR: Final = 20
"""1 GiB: a file that asks for more is an attack on this machine's memory."""
MAX_HEADER: Final = 1024
_STANZA: Final = re.compile(rb"-> scrypt ([A-Za-z0-9+/]{22}) ([1-9][0-9]?)\n([A-Za-z0-9+/]{43})\n")
_FINISH: Final = re.compile(rb"--- ([A-Za-z0-9+/]{43})\n")

RandomBytes = Callable[[int], bytes]


class AgeError(ValueError):
    """The stream cannot be decrypted; the text says why."""


class AgeWriter(io.RawIOBase):
    """Encrypts what is written to it; `close` writes the last chunk and leaves `target` open."""

    def __init__(
        self, target: IO[bytes], passphrase: Secret, random: RandomBytes, work_factor: int = WORK_FACTOR
    ) -> None:
        self._target = target
        file_key, salt, nonce = random(16), random(16), random(16)
        wrapped = ChaCha20Poly1305(_passphrase_key(passphrase, salt, work_factor)).encrypt(
            bytes(12), file_key, None
        )
        header = MAGIC + b"-> scrypt %s %d\n%s\n---" % (_base64(salt), work_factor, _base64(wrapped))
        target.write(header + b" " + _base64(_header_mac(file_key, header)) + b"\n" + nonce)
        self._cipher = ChaCha20Poly1305(_derive(file_key, nonce, b"payload"))
        self._counter = 0
        self._waiting = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        self._waiting += data
        # One byte more than a chunk has to wait: only the end of the file tells which chunk is the last.
        while len(self._waiting) > CHUNK:
            self._put(bytes(self._waiting[:CHUNK]), is_last=False)
            del self._waiting[:CHUNK]
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._put(bytes(self._waiting), is_last=True)
            self._waiting.clear()
        super().close()

    def _put(self, chunk: bytes, *, is_last: bool) -> None:
        self._target.write(self._cipher.encrypt(_chunk_nonce(self._counter, is_last=is_last), chunk, None))
        self._counter += 1


class AgeReader(io.RawIOBase):
    """Decrypts `source`; every byte that it gives was authenticated, and the end too.

    Raises:
        AgeError: The passphrase is another one, or the file is damaged, cut off or of another kind.
    """

    def __init__(self, source: IO[bytes], passphrase: Secret) -> None:
        self._source = source
        start = source.read(len(MAGIC))
        if start != MAGIC:
            raise AgeError("it is not an age file")
        stanza, finish = _read_line(source) + _read_line(source), _read_line(source)
        found, end = _STANZA.fullmatch(stanza), _FINISH.fullmatch(finish)
        if found is None or end is None:
            raise AgeError("it is encrypted for keys, not with a passphrase, or its header is damaged")
        work_factor = int(found[2])
        if work_factor > MAX_WORK_FACTOR:
            raise AgeError(f"it asks for scrypt with N = 2^{work_factor}, the limit is 2^{MAX_WORK_FACTOR}")
        key = _passphrase_key(passphrase, _unbase64(found[1]), work_factor)
        try:
            file_key = ChaCha20Poly1305(key).decrypt(bytes(12), _unbase64(found[3]), None)
        except InvalidTag as error:
            raise AgeError("the passphrase is another one") from error
        if not hmac.compare_digest(_header_mac(file_key, MAGIC + stanza + b"---"), _unbase64(end[1])):
            raise AgeError("its header was changed")
        nonce = source.read(16)
        if len(nonce) != 16:
            raise AgeError("it is cut off")
        self._cipher = ChaCha20Poly1305(_derive(file_key, nonce, b"payload"))
        self._counter = 0
        self._ahead = _read_exactly(source, CHUNK + TAG)
        self._plain = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray, /) -> int:  # type: ignore[override]
        if not self._plain and not self._ended:
            self._plain = self._next()
        count = min(len(buffer), len(self._plain))
        buffer[:count] = self._plain[:count]
        self._plain = self._plain[count:]
        return count

    def _next(self) -> bytes:
        chunk, self._ahead = self._ahead, _read_exactly(self._source, CHUNK + TAG)
        self._ended = not self._ahead
        try:
            plain = self._cipher.decrypt(_chunk_nonce(self._counter, is_last=self._ended), chunk, None)
        except InvalidTag as error:
            raise AgeError("it is damaged or cut off") from error
        if not plain and self._counter > 0:
            raise AgeError("it has an empty last chunk, which no writer makes")
        self._counter += 1
        return plain


def _passphrase_key(passphrase: Secret, salt: bytes, work_factor: int) -> bytes:
    label = b"age-encryption.org/v1/scrypt" + salt
    return Scrypt(salt=label, length=32, n=1 << work_factor, r=8, p=1).derive(passphrase.reveal().encode())


def _derive(file_key: bytes, salt: bytes | None, label: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=label).derive(file_key)


def _header_mac(file_key: bytes, header: bytes) -> bytes:
    return hmac.digest(_derive(file_key, None, b"header"), header, "sha256")


def _chunk_nonce(counter: int, *, is_last: bool) -> bytes:
    return counter.to_bytes(11, "big") + (b"\1" if is_last else b"\0")


def _base64(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def _unbase64(text: bytes) -> bytes:
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise AgeError("its header is damaged") from error
    if _base64(data) != text:
        raise AgeError("its header is not in the one form that it may have")
    return data


def _read_line(source: IO[bytes]) -> bytes:
    return source.readline(MAX_HEADER)


def _read_exactly(source: IO[bytes], size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size and (part := source.read(size - len(parts))):
        parts += part
    return bytes(parts)
