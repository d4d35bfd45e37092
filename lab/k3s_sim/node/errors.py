"""Errors of the simulator. Texts that k3s or Kubernetes would print are kept as they print them: other
programs read them.
"""

from __future__ import annotations

from collections.abc import Mapping


class K3sError(Exception):
    """The program can not go on; `message` is what k3s would log as fatal."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class StatusError(Exception):
    """A request was refused; becomes a Kubernetes `Status` object with this HTTP code."""

    def __init__(
        self, code: int, reason: str, message: str, details: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def to_json(self) -> dict[str, object]:
        """The body of the answer."""
        document: dict[str, object] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        return {**document, "details": dict(self.details)} if self.details else document


def not_found(resource: str, name: str) -> StatusError:
    """404 as the API server words it."""
    return StatusError(404, "NotFound", f'{resource} "{name}" not found')


def bad_request(message: str) -> StatusError:
    """400: the request makes no sense."""
    return StatusError(400, "BadRequest", message)


def conflict(resource: str, name: str, why: str) -> StatusError:
    """409: somebody else was faster, or a precondition does not hold."""
    return StatusError(409, "Conflict", f'Operation cannot be fulfilled on {resource} "{name}": {why}')
