"""Which control CAs this node trusts: those of node.json, until the control server hands out others.

The server may announce a new CA while the old one still signs: then it hands out both, as a bundle, with
every certificate that it issues. What it handed out last counts, so an old CA that is no longer handed out is
no longer trusted. Owns control-ca.pem in the state directory.
"""

from __future__ import annotations

import logging
import re
import ssl
from pathlib import Path

from agent.errors import AgentError
from agent.files import write_atomically

log = logging.getLogger("bramble.agent")

MAX_BUNDLE_BYTES = 16 * 1024
"""Two CAs take 1.5 KiB."""
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----", re.ASCII)


def split_bundle(pem: str) -> tuple[str, ...]:
    """The certificates of a bundle, each in PEM; text around them is left out."""
    return tuple(f"{one}\n" for one in _CERTIFICATE.findall(pem))


class TrustedAuthorities:
    """The CAs in force."""

    def __init__(self, directory: Path, built_in: str) -> None:
        self._path = directory / "control-ca.pem"
        self._pem = built_in
        try:
            kept = self._path.read_text("ascii")
        except (OSError, ValueError):
            return
        if _is_usable(kept):
            self._pem = kept

    @property
    def pem(self) -> str:
        return self._pem

    def take(self, offered: str | None) -> bool:
        """Trust what the server handed out; False where nothing is changed.

        A bundle that is none, or has no CA in common with what is trusted now, is left: whoever could talk us
        into another CA altogether would be another server. A change goes by way of a bundle that holds both.
        """
        known, found = set(split_bundle(self._pem)), set(split_bundle(offered or ""))
        if offered is None or found == known:
            return False
        if not _is_usable(offered) or not known & found:
            log.error("the CAs that the control server handed out are not taken: none of them is trusted yet")
            return False
        bundle = "".join(split_bundle(offered))
        try:
            write_atomically(self._path, bundle.encode(), 0o600)
        except AgentError as exc:
            log.error("the control server's CAs can not be kept: %s", exc.message)
            return False
        self._pem = bundle
        log.info("the control server's CAs have changed")
        return True


def _is_usable(pem: str) -> bool:
    if len(pem) > MAX_BUNDLE_BYTES or not split_bundle(pem):
        return False
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata="".join(split_bundle(pem)))
    except ssl.SSLError:
        return False
    return True
