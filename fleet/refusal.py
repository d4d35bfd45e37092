"""The one error with which the control server answers a caller."""

from __future__ import annotations

from fleet.errors import FleetError


class RefusedError(FleetError):
    """A request that is understood and not granted.

    Attributes:
        status: HTTP status of the answer.
        code: Short word of the answer's `error` field; part of the protocol.
    """

    def __init__(self, status: int, code: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.status = status
        self.code = code
