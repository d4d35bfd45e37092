"""Every route of the server: the one table behind the sockets, the guard and the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, Final, Protocol

from aiohttp import web
from aiohttp.typedefs import Middleware

from fleet.api.admin import AdminRoutes
from fleet.api.agents import AgentRoutes
from fleet.api.answers import answer_errors
from fleet.api.apply import ApplyRoutes
from fleet.api.control import ControlRoutes
from fleet.api.dashboard import DashboardRoutes
from fleet.api.errands import ErrandRoutes
from fleet.api.guard import Guard, Limits, limit_time, number_requests
from fleet.api.lists import ListRoutes
from fleet.api.openapi import document, openapi_path
from fleet.api.overview import OverviewRoutes
from fleet.api.people import PeopleRoutes
from fleet.api.policy import PolicyRoutes
from fleet.api.power import PowerRoutes
from fleet.api.recovery import RecoveryRoutes
from fleet.api.reimage import ReimageRoutes
from fleet.api.rollout import RolloutRoutes
from fleet.api.routes import Route
from fleet.api.snapshots import SnapshotRoutes
from fleet.api.tokens import DOCUMENT, DocumentRoutes, TokenRoutes
from fleet.controller import Controller


class Group(Protocol):
    """Routes that share what they need."""

    ROUTES: ClassVar[tuple[Route, ...]]

    def __init__(self, controller: Controller) -> None: ...


GROUPS: Final[tuple[type[Group], ...]] = (
    ControlRoutes,
    ListRoutes,
    OverviewRoutes,
    AdminRoutes,
    PeopleRoutes,
    ApplyRoutes,
    AgentRoutes,
    ErrandRoutes,
    PowerRoutes,
    SnapshotRoutes,
    RecoveryRoutes,
    ReimageRoutes,
    PolicyRoutes,
    RolloutRoutes,
    TokenRoutes,
    DashboardRoutes,
    DocumentRoutes,
)
ROUTES: Final = tuple(route for group in GROUPS for route in group.ROUTES)
REPORTS: Final = next(route for route in ControlRoutes.ROUTES if route.name == "status")
"""The route that has a lane of its own."""
GUARD: Final = web.AppKey("guard", Guard)


def openapi() -> dict[str, Any]:
    """The OpenAPI document of all routes."""
    return document(ROUTES)


def make_app(
    controller: Controller,
    *,
    is_socket: bool,
    limits: Limits | None = None,
    outermost: Sequence[Middleware] = (),
) -> web.Application:
    """The application behind one door: all routes over TLS, those of people on the unix socket."""
    open_here = {
        (route.method, openapi_path(route.path)): route
        for route in ROUTES
        if route.access.is_of_people or not is_socket
    }
    guard = Guard(controller, open_here, is_socket=is_socket, limits=limits or Limits())
    app = web.Application(
        middlewares=[*outermost, number_requests, answer_errors, limit_time, guard.middleware],
        client_max_size=max(route.max_body_bytes for route in ROUTES),
    )
    app[DOCUMENT] = openapi()
    app[GUARD] = guard
    for group in GROUPS:
        _add(app, group(controller), (route for route in group.ROUTES if route in open_here.values()))
    return app


def _add(app: web.Application, group: Group, routes: Iterable[Route]) -> None:
    for route in routes:
        app.router.add_route(route.method, route.path, partial(route.handler, group))
