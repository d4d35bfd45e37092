"""Server-sent events: what a page has to change, for as long as it is open.

An event carries where its reader is now, so a browser that lost its connection continues where it was.
Source: HTML standard, "Server-sent events" (`Last-Event-ID`). A reader that takes nothing is let go.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from bramble.dashboard.access import Session
from bramble.dashboard.feed import Cursor
from bramble.dashboard.guard import HEADERS, is_backed
from bramble.dashboard.site import SESSION, SITE, Site
from fleet.find import find_subject
from fleet.refusal import RefusedError

MAX_STREAMS: Final = 100
MAX_OF_SESSION: Final = 20
ALIVE_EVERY_S: Final = 5.0
"""A stream whose session is over ends so much later at most."""
STALLED_S: Final = 30.0
STALE_EVERY_S: Final = 2.0
"""How often a page that is made anew for each change is told so, at most."""


async def serve(request: web.Request) -> web.StreamResponse:
    """Tell a page what changes until it is closed."""
    site, session = request.app[SITE], request[SESSION]
    if len(site.streams) >= MAX_STREAMS or session.streams >= MAX_OF_SESSION:
        raise RefusedError(503, "too-many", "Too many pages are open.", "Close some of them.")
    cursor = site.feed.parse_mark(request.headers.get("Last-Event-ID") or request.query.get("after", ""))
    response = web.StreamResponse(
        headers={**HEADERS, "Content-Type": "text/event-stream", "Cache-Control": "no-store"}
    )
    task = asyncio.current_task()
    assert task is not None  # aiohttp runs each request in one
    site.streams.add(task)
    session.streams += 1
    site.feed.listeners += 1
    try:
        await response.prepare(request)
        await _send(response, b"retry: 3000\n\n")
        await _follow(site, session, request, response, cursor)
    except (ConnectionError, TimeoutError):
        pass  # the browser went away, or takes nothing
    finally:
        site.feed.listeners -= 1
        session.streams -= 1
        site.streams.discard(task)
    return response


async def end_all(app: web.Application) -> None:
    """The server stops: pages are told by the end of their connection."""
    for task in tuple(app[SITE].streams):
        task.cancel()


async def _follow(
    site: Site, session: Session, request: web.Request, response: web.StreamResponse, cursor: Cursor
) -> None:
    feed = site.feed
    subject = request.query.get("of", "")
    key = _board_of(site, subject) if subject else None
    is_rack = not subject and "stale" not in request.query
    has_news = cursor != feed.cursor
    while True:
        has_news = has_news or await feed.changed(ALIVE_EVERY_S)
        if not _is_open(site, session):
            await _send(response, b"event: over\ndata: 1\n\n")
            return
        now = feed.cursor
        if not has_news:
            await _send(response, b": alive\n\n")
        elif is_rack:
            await _send(response, _event(feed.mark_of(now), b"rack", feed.rack_since(cursor)))
        elif not subject or feed.subject_since(subject, key, cursor):
            await _send(response, _event(feed.mark_of(now), b"stale", b"1"))
            await asyncio.sleep(STALE_EVERY_S)
        cursor = now
        has_news = cursor != feed.cursor


def _is_open(site: Site, session: Session) -> bool:
    """Whether who listens may still: logged out, over, or with a token that was revoked, it may not."""
    if not session.names or site.clock() >= session.ends_at():
        return False
    return is_backed(site, session)


def _board_of(site: Site, name: str) -> str | None:
    with site.controller.store.read() as reader:
        found = find_subject(reader, name)
    key: str | None = getattr(found, "board_id", None) or getattr(found, "id", None)
    return key


def _event(mark: str, kind: bytes, data: bytes) -> bytes:
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (mark.encode(), kind, data)


async def _send(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(STALLED_S):
        await response.write(data)
