"""Notices as what is sent: a JSON document, a title with a text. Pure.

Several notices that wait for one channel go as one message: after a power cut sixty nodes are lost at once,
and nobody reads sixty messages.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from fleet.attention import Urgency
from fleet.notify.ledger import Kind, Notice
from fleet.printable import printable

MAX_SHOWN: Final = 20
"""Notices that one text lists; the rest is counted."""
MAX_TITLE: Final = 120
SIGNATURE_HEADER: Final = "X-Bramble-Signature"
_WORDS: Final = {Kind.RESOLVED: "over: ", Kind.ALARM: "alarm: ", Kind.TEST: "test: ", Kind.PROBLEM: ""}


def title(cluster: str, notices: Sequence[Notice]) -> str:
    """One line that says what is the matter."""
    if len(notices) == 1:
        return printable(f"{cluster}: {_WORDS[notices[0].kind]}{notices[0].text}", MAX_TITLE)
    over = sum(notice.kind is Kind.RESOLVED for notice in notices)
    new = len(notices) - over
    parts = [f"{new} need a person" if new else "", f"{over} over" if over else ""]
    return f"{cluster}: {', '.join(filter(None, parts))}"


def text(notices: Sequence[Notice]) -> str:
    """What happened and what to do, one paragraph for each."""
    shown = [_paragraph(notice) for notice in notices[:MAX_SHOWN]]
    if len(notices) > MAX_SHOWN:
        shown.append(f"and {len(notices) - MAX_SHOWN} more: bramble status")
    return "\n\n".join(shown)


def _paragraph(notice: Notice) -> str:
    lines = [f"{_WORDS[notice.kind]}{notice.text}", notice.hint]
    if notice.command:
        lines.append(f"$ {notice.command}")
    return "\n".join(printable(line) for line in lines if line)


def is_urgent(notices: Sequence[Notice]) -> bool:
    """Whether somebody has to be woken."""
    return any(notice.urgency is Urgency.NOW and notice.kind is not Kind.RESOLVED for notice in notices)


def document(cluster: str, notices: Sequence[Notice]) -> dict[str, Any]:
    """The body of a webhook; `version` grows when a field changes its meaning.

    `text` is the whole message in words, so that chat servers that take {"text": …} show it.
    """
    return {
        "version": 1,
        "cluster": cluster,
        "title": title(cluster, notices),
        "text": f"{title(cluster, notices)}\n\n{text(notices)}",
        "urgent": is_urgent(notices),
        "notices": [asdict(notice) for notice in notices],
    }


def sign(body: bytes, key: bytes, at: int) -> str:
    """`t=<UTC seconds>,v1=<hex>`: HMAC-SHA256 over ``<t>.<body>``, so an old message cannot be played again.

    Source: the form is that of Stripe's webhooks, which many receivers know how to check.
    """
    digest = hmac.new(key, f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"
