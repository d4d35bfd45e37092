"""The admin route behind `bramble dashboard`: a link that opens it once."""

from __future__ import annotations

from typing import ClassVar

from aiohttp import web

from fleet.api.answers import value_answer
from fleet.api.guard import CALLER, TOKEN_ID
from fleet.api.routes import Access, Parameter, Route
from fleet.controller import Controller
from fleet.trust.tokens import TokenRole

_ROLE = Parameter(
    name="role",
    description="What the login may do; an admin unless given.",
    schema={"type": "string", "enum": [role.value for role in TokenRole]},
)
LINK = {
    "type": "object",
    "required": ["url", "role", "expires"],
    "properties": {
        "url": {"type": "string"},
        "role": {"type": "string"},
        "expires": {"type": "number", "description": "UTC seconds since 1970."},
    },
}


class DashboardRoutes:
    """Logins of the dashboard."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    async def _link(self, request: web.Request) -> web.Response:
        role = TokenRole(request.query.get("role", TokenRole.ADMIN.value))
        url, grant = self._controller.login_links.make(request[CALLER], role, request.get(TOKEN_ID))
        return value_answer({"url": url, "role": grant.role.value, "expires": grant.expires})

    ROUTES: ClassVar[tuple[Route, ...]] = (
        Route(
            method="POST",
            path="/v1/admin/dashboard/links",
            name="makeDashboardLink",
            summary="A link that opens the dashboard once, within ten minutes.",
            access=Access.ADMIN,
            handler=_link,
            parameters=(_ROLE,),
            answer=LINK,
            refusals=(409,),
            holds_secret=True,
        ),
    )
