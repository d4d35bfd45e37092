"""What aiohttp says of requests that are no HTTP stays out of the log.

It writes an error with a traceback for each of them. Anybody on the network can send those without an end,
and they say nothing about this program; faults in handlers are still told.
"""

from __future__ import annotations

import logging
from typing import Final

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.log import server_logger


class _BadRequests(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, HttpProcessingError)


BAD_REQUESTS: Final = _BadRequests()


def ignore_bad_requests() -> None:
    """From now on, for every HTTP server of this process. A second call changes nothing."""
    server_logger.addFilter(BAD_REQUESTS)
