"""Coming in and going out: a token or a link opens a session, a button ends it; and light or dark."""

from __future__ import annotations

import time
from typing import Final

from aiohttp import web

from bramble.dashboard.guard import COOKIE, FORM, local_path, set_cookie
from bramble.dashboard.site import SESSION, SITE, THEME_COOKIE, THEMES
from fleet.api.answers import REQUEST_ID
from fleet.api.limits import RateLimit
from fleet.refusal import RefusedError
from fleet.trust.tokens import TokenRole

LOGINS: Final = 10
LOGINS_PER_SECOND: Final = 0.1
THEME_S: Final = 365 * 86400


class LoginPages:
    """The pages for which nobody has to be logged in."""

    def __init__(self) -> None:
        self._limit = RateLimit(burst=LOGINS, per_second=LOGINS_PER_SECOND)

    async def show(self, request: web.Request) -> web.Response:
        back = local_path(request.query.get("next", "/"))
        if SESSION in request:
            raise web.HTTPSeeOther(back)
        return request.app[SITE].page(request, "login.html", back=back, problem="")

    async def log_in(self, request: web.Request) -> web.StreamResponse:
        site = request.app[SITE]
        back = local_path(request[FORM].get("next", "/"))
        token = site.controller.tokens.find(request[FORM].get("token", ""))
        if token is None:
            self._slow_down(request)
            problem = "No token like this is in force."
            return site.page(request, "login.html", 401, back=back, problem=problem)
        return self._enter(request, f"token {token.name} ({token.id})", TokenRole(token.role), token.id, back)

    async def show_link(self, request: web.Request) -> web.Response:
        """Opening a link uses nothing up: mail programs and chats look at links before people do."""
        site = request.app[SITE]
        code = request.match_info["code"]
        grant = site.controller.login_links.find(code)
        if grant is None:
            raise self._no_link(request)
        return site.page(request, "enter.html", code=code, grant=grant)

    async def follow_link(self, request: web.Request) -> web.StreamResponse:
        grant = request.app[SITE].controller.login_links.redeem(request.match_info["code"])
        if grant is None:
            raise self._no_link(request)
        return self._enter(request, grant.who, grant.role, grant.token_id, "/")

    async def log_out(self, request: web.Request) -> web.StreamResponse:
        request.app[SITE].sessions.close(request[SESSION])
        response = web.Response(status=303, headers={"Location": "/login"})
        response.del_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="Strict")
        return response

    async def choose_theme(self, request: web.Request) -> web.StreamResponse:
        response = web.Response(status=303, headers={"Location": local_path(request[FORM].get("back", "/"))})
        theme = request[FORM].get("theme", "")
        if theme in THEMES:
            response.set_cookie(
                THEME_COOKIE, theme, path="/", secure=True, httponly=True, samesite="Strict", max_age=THEME_S
            )
        return response

    def _no_link(self, request: web.Request) -> RefusedError:
        self._slow_down(request)
        return RefusedError(
            410,
            "link",
            "This link was used, or is older than ten minutes.",
            "'bramble dashboard' prints another.",
        )

    def _slow_down(self, request: web.Request) -> None:
        """Count a login that failed.

        Raises:
            RefusedError: There were too many from that address.
        """
        if not self._limit.allows(request.remote or "", time.monotonic()):
            raise RefusedError(
                429, "too-many", "Too many logins from your address.", "Try again in a minute."
            )

    def _enter(
        self, request: web.Request, who: str, role: TokenRole, token_id: str | None, back: str
    ) -> web.StreamResponse:
        """Begin a session; one that the browser has is over with that."""
        site = request.app[SITE]
        if SESSION in request:
            site.sessions.close(request[SESSION])
        name, session = site.sessions.open(who, role, token_id, site.clock())
        with site.controller.store.write() as tx:
            tx.add_audit(
                at=site.clock(),
                who=who,
                what="dashboardLogin",
                request_id=request[REQUEST_ID],
                detail={"role": role.value, "from": request.remote or ""},
            )
        response = web.Response(status=303, headers={"Location": back})
        set_cookie(response, name, session)
        return response
