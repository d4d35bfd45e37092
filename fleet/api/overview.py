"""The route behind 'bramble status' and the dashboard's first page."""

from __future__ import annotations

from typing import ClassVar

from aiohttp import web

from fleet.api.answers import value_answer
from fleet.api.routes import Access, Route
from fleet.controller import Controller
from fleet.overview import Overview, overview
from fleet.views import as_json


class OverviewRoutes:
    """The fleet in one answer."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    async def _overview(self, _request: web.Request) -> web.Response:
        controller = self._controller
        controller.boots.flush()
        seen = overview(controller.store, controller.snapshots.health(), controller.faults())
        return value_answer(as_json(seen))

    ROUTES: ClassVar[tuple[Route, ...]] = (
        Route(
            method="GET",
            path="/v1/overview",
            name="overview",
            summary="Whether everything is all right: nodes by state, what needs a person, the last events.",
            access=Access.VIEWER,
            handler=_overview,
            answer=Overview,
        ),
    )
