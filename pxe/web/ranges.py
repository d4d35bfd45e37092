"""What part of a file a request gets, and under which conditions. Pure.

Sources: RFC 9110 §13.1 (conditions), §14 (ranges). One range is served; a request for several, or one that
can not be read, gets the whole file, as the RFC allows: nothing that boots or installs asks for several.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

_RANGE: Final = re.compile(r"bytes\s*=\s*(\d{0,20})\s*-\s*(\d{0,20})\s*", re.ASCII | re.IGNORECASE)
_TAG: Final = re.compile(r'\s*(?:W/)?("[^"]*")\s*(?:,|$)')


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What to answer.

    Args:
        status: 200, 206, 304, 412 or 416.
        first: offset of the first byte that is sent.
        count: bytes that are sent; 0 for an answer without a body.
    """

    status: HTTPStatus
    first: int = 0
    count: int = 0

    def content_range(self, size: int) -> str | None:
        """The header of that name, for the answers that have one."""
        if self.status is HTTPStatus.PARTIAL_CONTENT:
            return f"bytes {self.first}-{self.first + self.count - 1}/{size}"
        if self.status is HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return f"bytes */{size}"
        return None


def select_part(headers: Mapping[str, str], etag: str | None, size: int) -> Selection:
    """Choose the answer to a GET or HEAD.

    Args:
        headers: of the request; names compare without case where the mapping does so.
        etag: of the file, strong and in quotes; None where it has none.
        size: of the file, bytes.
    """
    whole = Selection(status=HTTPStatus.OK, count=size)
    match = headers.get("If-Match")
    if match is not None and not _lists(match, etag, weak=False):
        return Selection(status=HTTPStatus.PRECONDITION_FAILED)
    none_match = headers.get("If-None-Match")
    if none_match is not None and _lists(none_match, etag, weak=True):
        return Selection(status=HTTPStatus.NOT_MODIFIED)
    wanted = headers.get("Range")
    if_range = headers.get("If-Range")
    # We give no dates, so a date in If-Range can not be ours.
    if wanted is None or (if_range is not None and if_range.strip() != etag):
        return whole
    parsed = _RANGE.fullmatch(wanted.strip())
    if parsed is None or parsed[1] == parsed[2] == "":
        return whole
    if not parsed[1]:  # the last so many bytes
        count = min(int(parsed[2]), size)
        return _part(size - count, count)
    first = int(parsed[1])
    last = min(int(parsed[2]), size - 1) if parsed[2] else size - 1
    if parsed[2] and int(parsed[2]) < first:
        return whole  # not valid at all, RFC 9110 §14.1.1
    return _part(first, last - first + 1)


def _part(first: int, count: int) -> Selection:
    if count <= 0:
        return Selection(status=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
    return Selection(status=HTTPStatus.PARTIAL_CONTENT, first=first, count=count)


def _lists(header: str, etag: str | None, *, weak: bool) -> bool:
    """Whether a list of entity tags holds ours."""
    if header.strip() == "*":
        return True
    return any(
        found[1] == etag and (weak or not found[0].strip().startswith("W/"))
        for found in _TAG.finditer(header)
    )
