"""One question to a small device over HTTP: bounded in time and size, never redirected, answered in JSON.

Plugs answer slowly, hang in the middle, send pages of other devices that took over their address, or belong
to somebody else by now. Whatever comes is either a JSON object or an error that says what was expected.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import aiohttp
from yarl import URL

from fleet.power.driver import PowerError

TIMEOUT_S: Final = 6.0
"""For one question, with its connection and every byte of the answer."""
MAX_ANSWER_BYTES: Final = 64 * 1024


class HttpDevice:
    """A device at `base`. `what` names it in messages; no query and no password is ever a part of one."""

    def __init__(self, base: str, what: str, *, timeout_s: float | None = None) -> None:
        self._base = URL(base)
        self.what = what
        self._timeout_s = TIMEOUT_S if timeout_s is None else timeout_s

    async def get(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        middlewares: Sequence[aiohttp.ClientMiddlewareType] = (),
    ) -> dict[str, Any]:
        """The answer's JSON object.

        Raises:
            PowerError: No answer in time, another status than 200, or no JSON object.
        """
        url = self._base.join(URL(path)).with_query(dict(query or {}))
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                aiohttp.ClientSession(trust_env=False, middlewares=tuple(middlewares)) as session,
                session.get(url, headers=dict(headers or {}), allow_redirects=False) as response,
            ):
                status, location = response.status, response.headers.get("Location", "")
                body = await _read_bounded(response)
        except TimeoutError as error:
            raise PowerError(
                f"{self.what} did not answer within {self._timeout_s:g} s",
                "Is it plugged in and on this network? Its address may have changed.",
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # The text of some of these holds the URL with its query, and that may hold a password.
            raise PowerError(
                f"{self.what} can not be reached: {_reason_of(error)}",
                "Is it plugged in and on this network? Its address may have changed.",
            ) from None
        return self._judge(status, location, body)

    def _judge(self, status: int, location: str, body: bytes | None) -> dict[str, Any]:
        if status in (401, 403):
            raise PowerError(
                f"{self.what} refuses: the password is wrong, or it wants one",
                "Put its password into the file or the variable that 'power' in cluster.yaml names.",
            )
        if 300 <= status < 400:
            host = _host_of(location)
            raise PowerError(
                f"{self.what} sends callers elsewhere ({host or 'no address'}), which is not followed",
                "Write the address of the device itself into 'url'; with https if it insists on that.",
            )
        if body is None:
            raise PowerError(
                f"{self.what} answers with more than {MAX_ANSWER_BYTES} bytes, a few hundred were expected",
                "Something else answers at this address; check 'url'.",
            )
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            value = None
        if status == 404 and not isinstance(value, dict):
            value = {}
        if not isinstance(value, dict):
            raise PowerError(
                f"{self.what} answers with status {status} and no JSON object",
                "Something else answers at this address, or the device's firmware is very old; check 'url'.",
            )
        if status != 200:
            told = value.get("message") or value.get("error") or ""
            shown = f" ({str(told)[:100]!r})" if told else ""
            raise PowerError(
                f"{self.what} answers with status {status}{shown}",
                "Does it have this output, and is it this device? Check 'output' or 'channel', and 'url'.",
            )
        return value


def _host_of(location: str) -> str | None:
    try:
        return URL(location).host
    except ValueError:  # whatever the device wrote there
        return None


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes | None:
    """The body; None where it is too large."""
    body = bytearray()
    async for piece in response.content.iter_chunked(8192):
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            return None
    return bytes(body)


def _reason_of(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return "its TLS certificate is not one that this machine trusts"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.strerror or type(error.os_error).__name__
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
