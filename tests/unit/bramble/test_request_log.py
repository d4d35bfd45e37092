"""Strangers' bytes do not fill the log; faults of ours are in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError, LineTooLong
from aiohttp.log import server_logger

from bramble.request_log import BAD_REQUESTS, ignore_bad_requests


@pytest.fixture(autouse=True)
def _filtered() -> Iterator[None]:
    ignore_bad_requests()
    ignore_bad_requests()
    assert server_logger.filters.count(BAD_REQUESTS) == 1
    yield
    server_logger.removeFilter(BAD_REQUESTS)


@pytest.mark.parametrize("error", [BadHttpMessage("x"), LineTooLong("x"), HttpProcessingError(code=400)])
def test_a_request_that_is_no_http_is_not_logged(
    caplog: pytest.LogCaptureFixture, error: HttpProcessingError
) -> None:
    server_logger.error("Error handling request from %s", "10.0.0.9", exc_info=error)
    assert caplog.records == []


def test_a_fault_in_a_handler_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    server_logger.error("Error handling request", exc_info=ZeroDivisionError())
    server_logger.warning("something else")
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]
