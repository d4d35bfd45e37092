"""TFTP packets: bytes in, a valid packet out, and back (RFC 1350, options of RFC 2347).

Both directions are spoken here; the server's data path writes DATA headers by itself, without a packet
object. Names and option texts are str with undecodable bytes kept as surrogates: any name survives a
round trip.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias

from pxe.errors import WireError

MAXIMUM_REQUEST_BYTES: Final = 512  # RFC 2347, "Packet Formats"
MAXIMUM_OPTIONS: Final = 16  # ours; eight are defined by all RFCs together
DEFAULT_BLKSIZE: Final = 512  # RFC 1350 §2
MINIMUM_BLKSIZE: Final = 8  # RFC 2348
MAXIMUM_BLKSIZE: Final = 65_464  # RFC 2348
MAXIMUM_WINDOWSIZE: Final = 65_535  # RFC 7440
MAXIMUM_TIMEOUT_S: Final = 255  # RFC 2349
BLOCKS: Final = 65_536  # block numbers roll over to 0, as every client of today expects

DATA_HEADER: Final = struct.Struct("!HH")
ENCODING: Final = "utf-8"


class Opcode(IntEnum):
    """The first two bytes of every packet."""

    RRQ = 1
    WRQ = 2
    DATA = 3
    ACK = 4
    ERROR = 5
    OACK = 6


class ErrorCode(IntEnum):
    """Codes of ERROR packets (RFC 1350 appendix, RFC 2347)."""

    NOT_DEFINED = 0
    FILE_NOT_FOUND = 1
    ACCESS_VIOLATION = 2
    DISK_FULL = 3
    ILLEGAL_OPERATION = 4
    UNKNOWN_TRANSFER_ID = 5
    FILE_EXISTS = 6
    NO_SUCH_USER = 7
    BAD_OPTIONS = 8


class TftpWireError(WireError):
    """Bytes that are no TFTP packet.

    Args:
        message: what is wrong.
        answer: the code of the ERROR packet that the sender deserves; None for silence.
    """

    def __init__(self, message: str, answer: ErrorCode | None = None) -> None:
        super().__init__(message)
        self.answer = answer


Options: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Request:
    """A read request (or a write request, which this project only refuses).

    Args:
        filename: as the client wrote it.
        options: (name, value) in the order of the wire; names as the client spelled them, case ignored.
        mode: transfer mode as the client spelled it.
        opcode: RRQ or WRQ.
    """

    filename: str
    options: Options = ()
    mode: str = "octet"
    opcode: Opcode = Opcode.RRQ

    def __post_init__(self) -> None:
        if self.opcode not in (Opcode.RRQ, Opcode.WRQ):
            raise TftpWireError(f"{self.opcode.name} is not a request")
        if not self.filename:
            raise TftpWireError("request without a file name", ErrorCode.ILLEGAL_OPERATION)
        _check_texts(self.filename, self.mode)
        _check_options(self.options)

    def option(self, name: str) -> str | None:
        """The value of an option, or None."""
        return next((value for known, value in self.options if known.lower() == name), None)

    def encode(self) -> bytes:
        """The packet as it goes over the wire."""
        return (
            self.opcode.to_bytes(2, "big")
            + _encode_texts((self.filename, self.mode))
            + _encode_options(self.options)
        )


@dataclass(frozen=True, slots=True)
class Data:
    """One block of a file. Block numbers are 16 bits."""

    block: int
    payload: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.block < BLOCKS or len(self.payload) > MAXIMUM_BLKSIZE:
            raise TftpWireError(f"block {self.block} with {len(self.payload)} bytes can not be sent")

    def encode(self) -> bytes:
        """The packet as it goes over the wire."""
        return DATA_HEADER.pack(Opcode.DATA, self.block) + self.payload


@dataclass(frozen=True, slots=True)
class Ack:
    """The receiver has everything up to this block. Block 0 acknowledges an OACK."""

    block: int

    def __post_init__(self) -> None:
        if not 0 <= self.block < BLOCKS:
            raise TftpWireError(f"block {self.block} does not fit into 16 bits")

    def encode(self) -> bytes:
        """The packet as it goes over the wire."""
        return DATA_HEADER.pack(Opcode.ACK, self.block)


@dataclass(frozen=True, slots=True)
class Error:
    """The end of a transfer, or the answer to a request that is not served.

    Args:
        code: an `ErrorCode`, or any other 16-bit number that a peer thought up.
        text: for people.
    """

    code: int
    text: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.code < 2**16:
            raise TftpWireError(f"error code {self.code} does not fit into 16 bits")
        _check_texts(self.text)

    def encode(self) -> bytes:
        """The packet as it goes over the wire."""
        return DATA_HEADER.pack(Opcode.ERROR, self.code) + _encode_texts((self.text,))


@dataclass(frozen=True, slots=True)
class OptionAck:
    """The server's answer to options: those that it accepts, with the values that hold."""

    options: Options

    def __post_init__(self) -> None:
        _check_options(self.options)

    def option(self, name: str) -> str | None:
        """The value of an option, or None."""
        return next((value for known, value in self.options if known.lower() == name), None)

    def encode(self) -> bytes:
        """The packet as it goes over the wire."""
        return Opcode.OACK.to_bytes(2, "big") + _encode_options(self.options)


Packet: TypeAlias = Request | Data | Ack | Error | OptionAck


def parse_packet(data: bytes) -> Packet:
    """Read one packet of either direction.

    Raises:
        TftpWireError: the bytes are not a TFTP packet; ``answer`` says what to reply, if anything.
    """
    if len(data) < 4:
        raise TftpWireError(f"{len(data)} bytes, a TFTP packet has at least 4")
    opcode, number = DATA_HEADER.unpack_from(data)
    match opcode:
        case Opcode.RRQ | Opcode.WRQ:
            return _parse_request(Opcode(opcode), data)
        case Opcode.DATA:
            return Data(number, bytes(data[4:]))
        case Opcode.ACK:
            return Ack(number)
        case Opcode.ERROR:
            # Some clients leave the NUL at the end out, or write more behind it: the code is what counts.
            return Error(number, bytes(data[4:]).partition(b"\0")[0].decode(ENCODING, "surrogateescape"))
        case Opcode.OACK:
            return OptionAck(_pair(_split_texts(data[2:])))
        case _:
            raise TftpWireError(f"opcode {opcode} is unknown", ErrorCode.ILLEGAL_OPERATION)


def _parse_request(opcode: Opcode, data: bytes) -> Request:
    if len(data) > MAXIMUM_REQUEST_BYTES:
        raise TftpWireError(
            f"request of {len(data)} bytes, the limit is {MAXIMUM_REQUEST_BYTES}", ErrorCode.ILLEGAL_OPERATION
        )
    texts = _split_texts(data[2:])
    if len(texts) < 2:
        raise TftpWireError("request without a mode", ErrorCode.ILLEGAL_OPERATION)
    return Request(texts[0], _pair(texts[2:]), texts[1], opcode)


def _split_texts(data: bytes) -> tuple[str, ...]:
    """Texts that each end with a NUL byte."""
    if data and data[-1] != 0:
        raise TftpWireError("the last text has no NUL at its end", ErrorCode.ILLEGAL_OPERATION)
    return tuple(text.decode(ENCODING, "surrogateescape") for text in bytes(data).split(b"\0")[:-1])


def _pair(texts: tuple[str, ...]) -> Options:
    if len(texts) % 2:
        raise TftpWireError("an option without a value", ErrorCode.BAD_OPTIONS)
    return tuple(zip(texts[::2], texts[1::2], strict=True))


def _check_options(options: Options) -> None:
    if len(options) > MAXIMUM_OPTIONS:
        raise TftpWireError(f"{len(options)} options, the limit is {MAXIMUM_OPTIONS}", ErrorCode.BAD_OPTIONS)
    names = [name.lower() for name, _value in options]
    if len(set(names)) != len(names):
        raise TftpWireError("an option stands twice", ErrorCode.BAD_OPTIONS)
    for name, value in options:
        if not name:
            raise TftpWireError("an option without a name", ErrorCode.BAD_OPTIONS)
        _check_texts(name, value)


def _check_texts(*texts: str) -> None:
    for text in texts:
        if "\0" in text:
            raise TftpWireError("a text with a NUL inside can not be sent")


def _encode_texts(texts: tuple[str, ...]) -> bytes:
    return b"".join(text.encode(ENCODING, "surrogateescape") + b"\0" for text in texts)


def _encode_options(options: Options) -> bytes:
    return b"".join(_encode_texts(pair) for pair in options)
