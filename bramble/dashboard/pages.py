"""The pages that are looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from bramble.dashboard.actions import offered
from bramble.dashboard.by_itself import by_itself
from bramble.dashboard.cluster_page import cluster_page
from bramble.dashboard.guard import require_admin
from bramble.dashboard.node_page import NodePage, node_page
from bramble.dashboard.rack import DENSE, Card, Group
from bramble.dashboard.site import SESSION, SITE, Site
from fleet.refusal import RefusedError
from fleet.reimage.views import reimage_views
from fleet.spec.export import to_document
from fleet.store.glance import audit_before, find_events, images_in_use
from fleet.timeline import Kind
from fleet.views import event_view, held_view, timeline_view

MAX_CARDS: Final = 500
PAGE: Final = 50
ORDERS: Final = 5
MAX_IMAGES: Final = 20
MAX_FILTER: Final = 80
_KINDS: Final = tuple(kind.value for kind in Kind)


@dataclass(frozen=True, slots=True)
class Section:
    """A group of cards; `hidden` of them are not on the page."""

    group: Group
    cards: Sequence[Card]
    count: int

    @property
    def hidden(self) -> int:
        return self.count - len(self.cards)


def sections_of(cards: Sequence[Card], most: int = MAX_CARDS) -> list[Section]:
    """All groups in the order of the page, also the empty ones: a card may move there. Those that need
    somebody come first where not all find room."""
    left, sections = most, []
    for group in Group:
        own = [card for card in cards if card.group is group]
        sections.append(Section(group, own[:left], len(own)))
        left -= len(own[:left])
    return sections


async def rack(request: web.Request) -> web.Response:
    """All boards at a glance."""
    site = request.app[SITE]
    see_what_is_new(site)
    cards = site.feed.cards
    return site.page(
        request,
        "rack.html",
        mark=site.feed.mark_of(site.feed.cursor),
        head=site.feed.headline(),
        sections=sections_of(cards),
        is_dense=len(cards) > DENSE,
        held=[held_view(board) for board in site.feed.held[:PAGE]],
        held_count=len(site.feed.held),
        lines=site.feed.lines,
        alerts=site.feed.cluster,
    )


async def nodes(request: web.Request) -> web.Response:
    """All nodes in a table, by name; `group` and `q` choose, pages follow one another."""
    site = request.app[SITE]
    see_what_is_new(site)
    group, text = request.query.get("group", ""), request.query.get("q", "").strip()[:MAX_FILTER]
    found = [
        card
        for card in site.feed.cards
        if (not group or card.group.value == group)
        and text.lower() in f"{card.name} {card.model} {card.role} {card.state} {card.detail}".lower()
    ]
    number = _page_number(request, len(found))
    shown = found[(number - 1) * PAGE : number * PAGE]
    return site.page(
        request,
        "nodes.html",
        cards=shown,
        count=len(found),
        total=len(site.feed.cards),
        groups=[(one, one.heading) for one in Group],
        group=group,
        text=text,
        number=number,
        pages=max((len(found) + PAGE - 1) // PAGE, 1),
        link=lambda to: "/nodes?" + urlencode({"group": group, "q": text, "page": to}),
        by_group=Counter(card.group.value for card in site.feed.cards),
    )


async def subject(request: web.Request) -> web.Response:
    """A node, or a board that is no node's."""
    site, name = request.app[SITE], request.match_info["name"]
    page, node_name = _subject(site, name)
    node = page.timeline.node
    session = request[SESSION]
    with site.controller.store.read() as reader:
        orders = reimage_views(reader, node.name, ORDERS) if node is not None else []
    return site.page(
        request,
        "node.html",
        orders=orders,
        node_page=page,
        node=node,
        board=page.timeline.board,
        mark=site.feed.mark_of(site.feed.cursor),
        actions=offered(site.controller, node) if node is not None and session.is_admin else [],
        node_name=node_name,
    )


async def events(request: web.Request) -> web.Response:
    """The timelines of all, the newest first."""
    site, query = request.app[SITE], request.query
    kind, before = query.get("kind", ""), query.get("before", "")
    node, text = _filter(query.get("node", "")), _filter(query.get("q", ""))
    see_what_is_new(site)
    with site.controller.store.read() as reader:
        found = find_events(
            reader,
            PAGE + 1,
            before=local_number(before),
            node=node or None,
            kinds=(kind,) if kind in _KINDS else (),
            text=text,
        )
    chosen = {"node": node, "kind": kind, "q": text}
    older = {**chosen, "before": found[PAGE - 1].id} if len(found) > PAGE else None
    return site.page(
        request,
        "events.html",
        lines=[event_view(one) for one in found[:PAGE]],
        kinds=_KINDS,
        chosen=chosen,
        older=f"/events?{urlencode(older)}" if older else "",
        newest=f"/events?{urlencode(chosen)}" if before else "",
    )


async def images(request: web.Request) -> web.Response:
    """What nodes are installed from, and which node has which."""
    site = request.app[SITE]
    kept = site.images()
    with site.controller.store.read() as reader:
        used = images_in_use(reader)
    return site.page(
        request,
        "images.html",
        kept=kept[:MAX_IMAGES],
        hidden=max(len(kept) - MAX_IMAGES, 0),
        used=used,
        others={image: names for image, names in used.items() if image not in {one.id for one in kept}},
    )


async def cluster(request: web.Request) -> web.Response:
    """Is the cluster itself well?"""
    site = request.app[SITE]
    see_what_is_new(site)
    site.etcd.ask_soon()
    return site.page(
        request,
        "cluster.html",
        mark=site.feed.mark_of(site.feed.cursor),
        page=cluster_page(site.controller, site.etcd.seen),
    )


async def settings(request: web.Request) -> web.Response:
    """cluster.yaml as it was read, with every default; there is no secret in it."""
    site = request.app[SITE]
    document = to_document(site.controller.spec)
    return site.page(
        request,
        "settings.html",
        document=[(key, value) for key, value in document.items() if key not in ("version", "nodes")],
        declared=document["nodes"],
        file=str(site.controller.spec.path),
        columns=node_columns(document["nodes"]),
    )


def node_columns(declared: Sequence[dict[str, Any]]) -> list[str]:
    """Keys of nodes of which at least one node has a value, `name` first."""
    keys = [key for node in declared for key, value in node.items() if value not in (None, {}, [], ())]
    return list(dict.fromkeys(["name", *keys]))


async def audit(request: web.Request) -> web.Response:
    """What people had done, the newest first; for admins."""
    require_admin(request)
    site, before = request.app[SITE], request.query.get("before", "")
    with site.controller.store.read() as reader:
        found = audit_before(reader, PAGE + 1, before=local_number(before))
    older = f"/audit?before={found[PAGE - 1].id}" if len(found) > PAGE else ""
    return site.page(request, "audit.html", lines=found[:PAGE], older=older)


def _subject(site: Site, name: str) -> tuple[NodePage, str]:
    see_what_is_new(site)
    timeline = timeline_view(site.controller.store, name)
    if timeline is None:
        raise RefusedError(404, "node", f"There is no node or board {name!r}.", "The rack shows all of them.")
    node = timeline.node
    keys = (node.serial[8:] if node and node.serial else None, node.mac if node else None, name)
    if timeline.board is not None:
        keys = (timeline.board.board, None, name)
    history = next((found for key in keys if key and (found := site.boots.find(key)) is not None), None)
    findings = site.boots.findings(history, site.clock()) if history is not None else ()
    shown = node.name if node is not None else name
    card = next((one for one in site.feed.cards if node is not None and one.name == node.name), None)
    decision = site.controller.policy.decision(shown) if node is not None else None
    verdict = by_itself(decision) if decision is not None else None
    page = node_page(shown, card, timeline, history, findings, site.vitals.sparks(shown), verdict)
    return page, shown


def see_what_is_new(site: Site) -> None:
    """See what is new now, not a second later: who acted looks at what became of it."""
    site.controller.boots.flush()
    site.feed.look()


def local_number(text: str) -> int | None:
    """A number of an entry, or of a page, from an address; None for what is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def _filter(text: str) -> str:
    """What to look for, without what nothing has in it."""
    return "".join(char for char in text if char.isprintable()).strip()[:MAX_FILTER]


def _page_number(request: web.Request, count: int) -> int:
    last = max((count + PAGE - 1) // PAGE, 1)
    return min(max(local_number(request.query.get("page", "")) or 1, 1), last)
