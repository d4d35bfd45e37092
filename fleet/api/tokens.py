"""Routes of people's tokens, and the document that describes every route."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from aiohttp import web

from agent.wire import decode
from fleet.api.answers import value_answer
from fleet.api.guard import add_to_audit
from fleet.api.routes import MESSAGE, Access, Parameter, Route
from fleet.controller import Controller
from fleet.store.access import TokenRecord
from fleet.trust.tokens import DEFAULT_TTL_S, MAX_TTL_S, TokenRole

DOCUMENT: Final = web.AppKey("openapi", dict)


@dataclass(frozen=True)
class TokenRequest:
    """A token to be made. `ttl_s` is how many seconds it is in force."""

    name: str = dataclasses.field(metadata={"schema": {"pattern": "^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"}})
    role: TokenRole = TokenRole.VIEWER
    ttl_s: float = dataclasses.field(
        default=DEFAULT_TTL_S, metadata={"schema": {"minimum": 1, "maximum": MAX_TTL_S}}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenView:
    """What may be shown of a token. Times are UTC seconds."""

    id: str
    name: str
    role: str
    created: float
    expires: float | None
    revoked: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """A token, this once with what has to be shown."""

    token: str
    view: TokenView


class TokenRoutes:
    """Make, list and end tokens."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    async def create(self, request: web.Request) -> web.Response:
        wanted = decode(TokenRequest, await request.read())
        record, secret = self._controller.tokens.create(wanted.name, wanted.role, wanted.ttl_s)
        add_to_audit(
            request, token=record.id, name=record.name, role=record.role, ttl_s=f"{wanted.ttl_s:.0f}"
        )
        return value_answer({"token": secret.reveal(), "view": _view(record)})

    async def tokens(self, _request: web.Request) -> web.Response:
        return value_answer([_view(record) for record in self._controller.tokens.tokens()])

    async def revoke(self, request: web.Request) -> web.Response:
        return value_answer({"message": self._controller.tokens.revoke(request.match_info["token"])})

    ROUTES: ClassVar[tuple[Route, ...]] = (
        Route(
            method="GET",
            path="/v1/tokens",
            name="listTokens",
            summary="Every token, without what has to be shown.",
            access=Access.ADMIN,
            handler=tokens,
            answer=tuple[TokenView, ...],
        ),
        Route(
            method="POST",
            path="/v1/tokens",
            name="createToken",
            summary="Make a token; the answer is the only place where it stands.",
            access=Access.ADMIN,
            handler=create,
            request=TokenRequest,
            answer=NewToken,
            holds_secret=True,
        ),
        Route(
            method="POST",
            path="/v1/tokens/{token}/revoke",
            name="revokeToken",
            summary="End a token, at once.",
            access=Access.ADMIN,
            handler=revoke,
            parameters=(
                Parameter(
                    name="token",
                    description="Its name or its id.",
                    schema={"type": "string", "minLength": 1, "maxLength": 64},
                    is_required=True,
                ),
            ),
            answer=MESSAGE,
            refusals=(404,),
        ),
    )


def _view(record: TokenRecord) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(TokenView)}


class DocumentRoutes:
    """The OpenAPI document; the table that it is made of is put into the application by `fleet.api.table`."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    async def show(self, request: web.Request) -> web.Response:
        return value_answer(request.app[DOCUMENT])

    ROUTES: ClassVar[tuple[Route, ...]] = (
        Route(
            method="GET",
            path="/v1/openapi.json",
            name="describe",
            summary="This document.",
            access=Access.VIEWER,
            handler=show,
            answer={"type": "object"},
        ),
    )
