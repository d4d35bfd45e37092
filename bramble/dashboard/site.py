"""What every page stands on: the running server's parts, templates, and the files of style and script."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import jinja2
from aiohttp import web

from bramble.dashboard import words
from bramble.dashboard.access import Session, Sessions
from bramble.dashboard.cluster_page import EtcdGlance
from bramble.dashboard.feed import Feed
from bramble.dashboard.node_page import Boots
from bramble.dashboard.vitals import HEIGHT, WIDTH, Vitals
from bramble.kept_images import KeptImage
from fleet.controller import Controller
from fleet.printable import size_text

HERE: Final = Path(__file__).parent
THEME_COOKIE: Final = "bramble-theme"
THEMES: Final = ("light", "dark")
PART: Final = "X-Part"
"""Header of what `live.js` asks for by itself, to put parts of a page anew."""
_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

SESSION: Final = web.RequestKey("dashboard session", Session)


Images = Callable[[], Sequence[KeptImage]]
"""The images that nodes can be installed from, that of the cluster first."""


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of style or script, as it is sent."""

    type: str
    body: bytes
    packed: bytes


class Assets:
    """The files below `static/`, each at an address that holds its digest, so that browsers keep it."""

    def __init__(self, directory: Path) -> None:
        self._names: dict[str, str] = {}
        self._files: dict[str, Asset] = {}
        for path in sorted(directory.iterdir()):
            body = path.read_bytes()
            address = f"{hashlib.sha256(body).hexdigest()[:12]}/{path.name}"
            self._names[path.name] = address
            self._files[address] = Asset(_TYPES[path.suffix], body, gzip.compress(body, mtime=0))

    def address(self, name: str) -> str:
        """Where a browser asks for a file."""
        return f"/static/{self._names[name]}"

    def find(self, address: str) -> Asset | None:
        return self._files.get(address)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The dashboard of one server.

    Attributes:
        clock: UTC seconds since 1970.
    """

    controller: Controller
    feed: Feed
    vitals: Vitals
    etcd: EtcdGlance
    boots: Boots
    images: Images
    sessions: Sessions
    clock: Callable[[], float]
    assets: Assets
    templates: jinja2.Environment
    streams: set[asyncio.Task[Any]] = field(default_factory=set)
    """What runs for each page that is kept up to date."""

    def page(self, request: web.Request, template: str, status: int = 200, **values: Any) -> web.Response:
        """A page, for whoever is logged in; with the notice that waits for it."""
        session = request.get(SESSION)
        notice = None
        if session is not None and status == 200 and PART not in request.headers:
            notice, session.notice = session.notice, None
        text = self.templates.get_template(template).render(
            cluster=self.controller.spec.name,
            session=session,
            notice=notice,
            theme=theme_of(request),
            path=request.path,
            now=self.clock(),
            **values,
        )
        return web.Response(status=status, text=text, content_type="text/html", charset="utf-8")


SITE: Final = web.AppKey("dashboard", Site)


def make_templates(assets: Assets) -> jinja2.Environment:
    """Everything is escaped, and a name that is not there is a mistake, not an empty text."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    templates.globals |= {"asset": assets.address, "spark_width": WIDTH, "spark_height": HEIGHT}
    templates.filters |= {
        "ago": words.ago,
        "span": words.span,
        "size": size_text,
        "moment": words.moment,
        "iso": words.iso,
        "shown": words.without_login,
        "whole": words.whole,
    }
    return templates


def theme_of(request: web.Request) -> str:
    """What the person chose; empty for what the browser prefers."""
    theme = request.cookies.get(THEME_COOKIE, "")
    return theme if theme in THEMES else ""
