"""Who is at the other end of a TLS connection."""

from __future__ import annotations

from typing import Any

from aiohttp import web


def peer_certificate(request: web.Request) -> str | None:
    """Serial number (lower-case hex, no leading zeros) of the connection's verified client certificate."""
    tls = request.get_extra_info("ssl_object")
    shown: dict[str, Any] | None = tls.getpeercert() if tls is not None else None
    serial = shown.get("serialNumber") if shown else None
    return f"{int(serial, 16):x}" if serial else None
