"""In front of every page: who asks, from where, and what a browser may do with the answer.

A page is for a session; a form must come from a page of this server (Origin, Sec-Fetch-Site) and carry its
session's token. Nothing but our own files may run or be shown in a page, and no page may be shown in another.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final
from urllib.parse import quote

from aiohttp import web

from bramble.dashboard.access import Session
from bramble.dashboard.site import PART, SESSION, SITE, Site
from fleet.api.answers import REQUEST_ID, Handler
from fleet.errors import FleetError
from fleet.refusal import RefusedError

log = logging.getLogger(__name__)

COOKIE: Final = "__Host-bramble"
MAX_FORM_BYTES: Final = 16 * 1024
MAX_FIELD: Final = 1000
FORM_S: Final = 15.0
FORM: Final = web.RequestKey("dashboard form", dict[str, str])
OPEN: Final = ("/login", "/enter/", "/static/", "/theme")
"""Pages for which nobody has to be logged in."""
CSRF: Final = "csrf"

_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


@web.middleware
async def add_headers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """On every answer, errors included."""
    response = await handler(request)
    if not response.prepared:
        response.headers.update(HEADERS)
        response.headers.setdefault("Cache-Control", "no-store")
    return response


@web.middleware
async def show_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """No request raises past here: what went wrong is a page that says what to do."""
    site = request.app[SITE]
    try:
        return await handler(request)
    except RefusedError as error:
        return _error(site, request, error.status, error.message, error.hint)
    except web.HTTPSeeOther as redirection:
        return web.Response(status=redirection.status, headers={"Location": str(redirection.location)})
    except web.HTTPRequestEntityTooLarge:
        return _error(site, request, 413, "That is more than a form holds.")
    except web.HTTPNotFound:
        return _error(site, request, 404, "There is no such page.", "The menu has all of them.")
    except web.HTTPException as error:
        return _error(site, request, error.status, f"{error.reason}.")
    except FleetError as error:
        log.warning("page failed: %s", error.message, extra=_fields(request))
        return _error(site, request, 503, error.message, error.hint)
    except Exception:
        log.exception("page failed", extra=_fields(request))
        return _error(site, request, 500, "The server made a mistake.", "Its log has the details.")


@web.middleware
async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Find the session, keep the others out, and read forms only from our own pages."""
    site = request.app[SITE]
    name = request.cookies.get(COOKIE, "")
    is_stream = request.path == "/live"
    # What a page asks for by itself is no use of it: nobody may be sitting there.
    is_use = not is_stream and PART not in request.headers
    session = site.sessions.find(name, site.clock(), is_use=is_use) if name else None
    if session is not None and not is_backed(site, session):
        site.sessions.close(session)
        session = None
    if session is not None:
        request[SESSION] = session
    is_open = request.path.startswith(OPEN)
    if request.method == "POST":
        _require_own_origin(request)
        request[FORM] = await _read_form(request)
        if not is_open:
            if session is None:
                raise RefusedError(
                    401, "session", "You are logged out, so nothing was done.", "Log in again."
                )
            if not session.takes(request[FORM].get(CSRF, "")):
                raise RefusedError(
                    403,
                    "csrf",
                    "This form is not of your session, so nothing was done.",
                    "Load the page anew.",
                )
    elif session is None and not is_open:
        if is_stream or PART in request.headers:
            raise RefusedError(401, "session", "You are logged out.", "Log in again.")
        raise web.HTTPSeeOther(f"/login?next={quote(request.path_qs, safe='')}")
    response = await handler(request)
    if session is not None and session.names and request.method == "GET" and not response.prepared:
        fresh = site.sessions.rotate(session, site.clock())
        if fresh is not None:
            set_cookie(response, fresh, session)
    return response


def is_backed(site: Site, session: Session) -> bool:
    """Whether the token that opened a session is still in force; one by a link of this machine's socket
    has none."""
    return session.token_id is None or site.controller.tokens.is_in_force(session.token_id)


def set_cookie(response: web.StreamResponse, name: str, session: Session) -> None:
    """Hand the session's name to the browser, for as long as the session can last."""
    response.set_cookie(
        COOKIE,
        name,
        path="/",
        secure=True,
        httponly=True,
        samesite="Strict",
        max_age=int(session.ends_by() - session.used),
    )


def local_path(text: str) -> str:
    """A path of this site to go back to; the front page where it is none."""
    is_ours = text.startswith("/") and not text.startswith(("//", "/\\"))
    return text if is_ours and text.isprintable() and len(text) <= MAX_FIELD else "/"


def require_admin(request: web.Request) -> Session:
    """The session of who acts.

    Raises:
        RefusedError: A viewer's.
    """
    session = request[SESSION]
    if not session.is_admin:
        raise RefusedError(
            403, "role", "You may look and not act: this login is a viewer's.", "Log in as an admin."
        )
    return session


def _require_own_origin(request: web.Request) -> None:
    """A form of another site is refused before it is read. Source: W3C Fetch Metadata."""
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin")
    foreign = site is not None and site not in ("same-origin", "none")
    if origin is not None and origin != f"https://{request.host}":
        foreign = True
    if foreign:
        raise RefusedError(403, "origin", "This form came from another site, so nothing was done.")


async def _read_form(request: web.Request) -> dict[str, str]:
    if (request.content_length or 0) > MAX_FORM_BYTES:
        raise web.HTTPRequestEntityTooLarge(MAX_FORM_BYTES, request.content_length or 0)
    if request.content_type != "application/x-www-form-urlencoded":
        raise RefusedError(415, "form", "Only forms are taken here.")
    try:
        async with asyncio.timeout(FORM_S):
            found = await request.post()
    except TimeoutError as error:
        raise RefusedError(408, "timeout", "The form did not arrive in time.", "Send it again.") from error
    except (UnicodeDecodeError, LookupError, web.RequestPayloadError) as error:
        raise RefusedError(400, "form", "The form cannot be read: it has to be plain UTF-8.") from error
    return {name: text.strip()[:MAX_FIELD] for name, text in found.items() if isinstance(text, str)}


def _error(site: Site, request: web.Request, status: int, message: str, hint: str = "") -> web.Response:
    return site.page(
        request,
        "error.html",
        status,
        code=status,
        message=message,
        hint=hint,
        request_id=request.get(REQUEST_ID, ""),
    )


def _fields(request: web.Request) -> dict[str, str]:
    return {"route": request.path, "request": request.get(REQUEST_ID, "")}
