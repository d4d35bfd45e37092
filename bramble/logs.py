"""Logs: words on a terminal, JSON lines in a service. Set up by the command, once.

Fields come in the standard way, `log.info("lease offered", extra={"mac": mac})`. Parts of them are from the
network: neither form lets through what a terminal or a log reader could take for something else.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from fleet.printable import printable

LEVELS: Final = (logging.WARNING, logging.INFO, logging.DEBUG)
MAX_VALUE: Final = 2000
_OWN: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}
"""Attributes that every record has: what else there is, somebody gave as a field."""


class LogFormat(StrEnum):
    """How a line looks."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"

    def resolve(self, environment: Mapping[str, str]) -> LogFormat:
        """AUTO is JSON where systemd collects the lines, else text. Source: systemd.exec(5),
        JOURNAL_STREAM.
        """
        if self is not LogFormat.AUTO:
            return self
        return LogFormat.JSON if "JOURNAL_STREAM" in environment else LogFormat.TEXT


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The fields that the caller gave."""
    return {name: value for name, value in record.__dict__.items() if name not in _OWN}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC, RFC 3339), level, logger, message, then the fields.

    A field never replaces one of the first four. Control characters are escaped by JSON itself.
    """

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:MAX_VALUE],
        }
        for name, value in fields_of(record).items():
            line.setdefault(name, _plain(value))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class TextFormatter(logging.Formatter):
    """``WARNING pxe.net.dhcp: DHCP reply not sent (to=10.0.0.9 error='No route to host')``."""

    def format(self, record: logging.LogRecord) -> str:
        message = " ".join(printable(line, MAX_VALUE) for line in record.getMessage().splitlines())
        line = f"{record.levelname} {record.name}: {message}"
        fields = " ".join(f"{name}={_word(value)}" for name, value in fields_of(record).items())
        if fields:
            line += f" ({fields})"
        if record.exc_info:
            line += "\n" + "\n".join(
                printable(part, MAX_VALUE) for part in self.formatException(record.exc_info).splitlines()
            )
        return line


def set_up_logging(verbose: int, form: LogFormat) -> None:
    """Send the logs to stderr; a service says what changes (info) without being asked.

    Args:
        verbose: how often -v was given.
        form: resolved.
    """
    is_service = form is LogFormat.JSON
    handler = _StderrHandler()
    handler.setFormatter(JsonFormatter() if is_service else TextFormatter())
    root = logging.getLogger()
    root.handlers = [known for known in root.handlers if not isinstance(known, _StderrHandler)]
    root.addHandler(handler)
    root.setLevel(LEVELS[min(verbose + is_service, len(LEVELS) - 1)])


class _StderrHandler(logging.Handler):
    """To stderr as it is at the time: a program that embeds the command may put another one there."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)


def _plain(value: object) -> object:
    if isinstance(value, bool | int | float) or value is None:
        return value
    return str(value)[:MAX_VALUE]


def _word(value: object) -> str:
    text = printable(str(value), MAX_VALUE)
    return repr(text) if not text or " " in text or "=" in text else text
