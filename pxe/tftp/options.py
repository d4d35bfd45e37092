"""What a transfer's two ends agree on before the first block. Pure.

Only options that were asked for are acknowledged, in the client's order (RFC 2347, 2348, 2349, 7440).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pxe.tftp.wire import (
    BLOCKS,
    DATA_HEADER,
    DEFAULT_BLKSIZE,
    MAXIMUM_BLKSIZE,
    MAXIMUM_TIMEOUT_S,
    MAXIMUM_WINDOWSIZE,
    MINIMUM_BLKSIZE,
    ErrorCode,
    Request,
    TftpWireError,
)

MAXIMUM_WINDOW_BYTES: Final = 96 * 1024
"""More overflows the receive buffer that Linux gives a client by default (208 KiB with all overheads), and
what is lost there is lost again with every repetition."""
MAXIMUM_DIGITS: Final = 20  # of a number: as many as 64 bits need


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """Bounds of every transfer.

    Args:
        max_blksize: largest block; keep it at the interface's MTU - 32 (IP 20, UDP 8, TFTP 4), fragments
            are slow.
        max_windowsize: most blocks in flight.
        first_timeout_s: until the first retransmission; doubled each time up to `max_timeout_s`.
        max_timeout_s: longest wait for an answer.
        retries: retransmissions without an answer, after which the transfer has failed.
        total_s: after which a transfer has failed however well it goes.
    """

    max_blksize: int = 1468
    max_windowsize: int = 64
    first_timeout_s: float = 1.0
    max_timeout_s: float = 8.0
    retries: int = 5
    total_s: float = 900.0

    def __post_init__(self) -> None:
        if not MINIMUM_BLKSIZE <= self.max_blksize <= MAXIMUM_BLKSIZE:
            raise ValueError(f"max_blksize {self.max_blksize} is not in {MINIMUM_BLKSIZE}–{MAXIMUM_BLKSIZE}")
        # Block numbers are compared modulo 65536: a window must stay below half of that to be unambiguous.
        if not 1 <= self.max_windowsize < BLOCKS // 2:
            raise ValueError(f"max_windowsize {self.max_windowsize} is not in 1–{BLOCKS // 2 - 1}")
        if self.retries < 0 or min(self.first_timeout_s, self.max_timeout_s, self.total_s) <= 0:
            raise ValueError("retries and times must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Negotiated:
    """What holds for a transfer. `options` go into the OACK; without any there is none."""

    blksize: int = DEFAULT_BLKSIZE
    windowsize: int = 1
    timeout_s: int | None = None
    options: tuple[tuple[str, str], ...] = ()


def negotiate(request: Request, size_bytes: int, limits: SessionLimits) -> Negotiated:
    """Agree on the options of a request. Values above a limit are lowered, as the RFCs allow.

    Raises:
        TftpWireError: a value that means nothing; the answer is ERROR 8 (or 4 for another mode than octet).
    """
    if request.mode.lower() != "octet":
        raise TftpWireError("only mode octet is served", ErrorCode.ILLEGAL_OPERATION)
    blksize, windowsize, timeout_s = DEFAULT_BLKSIZE, 1, None
    accepted: list[tuple[str, str]] = []
    for name, text in request.options:
        match name.lower():
            case "blksize":
                blksize = min(_number(text, MINIMUM_BLKSIZE), limits.max_blksize)
                accepted.append(("blksize", str(blksize)))
            case "tsize":
                _number(text, 0)
                accepted.append(("tsize", str(size_bytes)))
            case "timeout":
                # A server can not answer with another value (RFC 2349): out of range is as if not asked.
                if 1 <= (wanted_s := _number(text, 0)) <= MAXIMUM_TIMEOUT_S:
                    timeout_s = wanted_s
                    accepted.append(("timeout", str(timeout_s)))
            case "windowsize":
                windowsize = min(_number(text, 1), MAXIMUM_WINDOWSIZE, limits.max_windowsize)
                accepted.append(("windowsize", ""))  # known when all options are
            case _:
                pass
    windowsize = min(windowsize, max(1, MAXIMUM_WINDOW_BYTES // (DATA_HEADER.size + blksize)))
    options = tuple((name, str(windowsize) if name == "windowsize" else value) for name, value in accepted)
    return Negotiated(blksize=blksize, windowsize=windowsize, timeout_s=timeout_s, options=options)


def _number(text: str, minimum: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= MAXIMUM_DIGITS) or int(text) < minimum:
        raise TftpWireError("an option's value means nothing", ErrorCode.BAD_OPTIONS)
    return int(text)
