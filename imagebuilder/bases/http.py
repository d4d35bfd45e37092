"""HTTP as image sites need it: redirects by our own rules, raw bytes, errors in words.

Owns a ``requests`` session. A redirect may lead to another host, never from https to http and never to
another scheme: what was asked for over TLS is not fetched in clear.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, Self, TypeVar
from urllib.parse import urljoin, urlsplit, urlunsplit

import urllib3

from imagebuilder.errors import ImageBuilderError

if TYPE_CHECKING:
    from requests import Response

TIMEOUT_S: Final = (15, 60)
"""Seconds to connect, and between two packets."""

MAX_REDIRECTS: Final = 8
SMALL_ATTEMPTS: Final = 3
SMALL_WAIT_S: Final = 2.0
PIECE_BYTES: Final = 1 << 20
_TRANSIENT: Final = (408, 425, 429, 500, 502, 503, 504)


T = TypeVar("T")


class FetchError(ImageBuilderError):
    """Something cannot be had from a site. ``status`` is the HTTP status where one was the reason."""

    def __init__(self, message: str, hint: str, *, status: int | None = None) -> None:
        super().__init__(message, hint)
        self.status = status


class TransientError(FetchError):
    """The same request may succeed in a moment; ``retry_after_s`` when the server said so."""

    def __init__(
        self, message: str, hint: str, *, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, hint, status=status)
        self.retry_after_s = retry_after_s


class Answer:
    """A response whose body is read in pieces, byte for byte as it came."""

    def __init__(self, response: Response, url: str) -> None:
        self._response = response
        self.url = url
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers

    @property
    def length(self) -> int | None:
        """Content-Length, where the server gives a number."""
        return _number(self.headers.get("Content-Length", ""))

    def pieces(self) -> Iterator[bytes]:
        """The body. A Content-Encoding is not undone: a ``.img.gz`` may come with one.

        Raises:
            TransientError: the connection broke, or the body ended early.
        """
        try:
            while piece := self._response.raw.read(PIECE_BYTES, decode_content=False):
                yield piece
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise TransientError(
                f"{redact(self.url)}: the transfer broke off: {exc}", "Try again; what came is kept."
            ) from exc


class Http:
    """A client for image sites; a context manager. ``wait`` sleeps so many seconds between attempts."""

    def __init__(self, wait: Callable[[float], None] = time.sleep) -> None:
        from requests import Session  # 5 MiB that a server which downloads nothing does without

        self._session = Session()
        self.wait = wait

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    @contextlib.contextmanager
    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Iterator[Answer]:
        """The answer to a GET after all redirects: status 200, 206 or 416.

        Raises:
            FetchError: a URL that is not http(s), a redirect that is refused, any other status.
            TransientError: no connection, or a status that may pass.
        """
        # identity: a site that compresses on the fly would make Range offsets and sizes meaningless
        wanted = {"Accept-Encoding": "identity", "User-Agent": "bramble", **(headers or {})}
        response, final = self._follow(check_url(url), wanted)
        try:
            _raise_for_status(response, final)
            yield Answer(response, final)
        finally:
            response.close()

    def read(self, url: str, limit_bytes: int) -> bytes:
        """A small file, whole; asked for again when the site or the network stumbles.

        Raises:
            FetchError, TransientError
        """

        def once() -> bytes:
            with self.get(url) as answer:
                body = bytearray()
                for piece in answer.pieces():
                    body += piece
                    if len(body) > limit_bytes:
                        raise FetchError(
                            f"{redact(url)}: the answer is larger than the {limit_bytes} bytes that are "
                            "expected",
                            "The site answers with something else; use another --mirror.",
                        )
                if answer.length not in (None, len(body)):
                    raise TransientError(
                        f"{redact(url)}: the server announced {answer.length} bytes, {len(body)} came",
                        "Try again.",
                    )
                return bytes(body)

        return self._patiently(once)

    def redirect_target(self, url: str) -> str:
        """Where ``url`` leads in the end, which must be a file that is there.

        Raises:
            FetchError, TransientError
        """

        def once() -> str:
            wanted = {"Accept-Encoding": "identity", "User-Agent": "bramble"}
            response, final = self._follow(check_url(url), wanted, "HEAD")
            with contextlib.closing(response):
                _raise_for_status(response, final)
            return final

        return self._patiently(once)

    def _patiently(self, once: Callable[[], T]) -> T:
        for attempt in range(1, SMALL_ATTEMPTS):
            try:
                return once()
            except TransientError as exc:
                pause = exc.retry_after_s if exc.retry_after_s is not None else SMALL_WAIT_S * attempt
                self.wait(min(pause, 30.0))
        return once()

    def _follow(self, url: str, headers: Mapping[str, str], method: str = "GET") -> tuple[Response, str]:
        from requests import RequestException

        for _ in range(MAX_REDIRECTS + 1):
            try:
                response = self._session.request(
                    method, url, headers=dict(headers), stream=True, allow_redirects=False, timeout=TIMEOUT_S
                )
            except RequestException as exc:
                raise TransientError(
                    f"{redact(url)}: no answer: {_reason(exc)}",
                    "Look at the network, or use another --mirror.",
                ) from exc
            target = response.headers.get("Location")
            if response.status_code not in (301, 302, 303, 307, 308) or target is None:
                return response, url
            response.close()
            url = check_redirect(url, urljoin(url, target))
        raise FetchError(f"{redact(url)}: more than {MAX_REDIRECTS} redirects", "Use another --mirror.")


def check_url(url: str) -> str:
    """``url``, if it is one that is fetched.

    Raises:
        FetchError: another scheme than http(s), or no host.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FetchError(
            f"{redact(url)!r} is not an http or https URL",
            "Give an http(s) URL; a file on this machine goes by its path.",
        )
    return url


def check_redirect(source: str, target: str) -> str:
    """The target of a redirect, if it is followed.

    Raises:
        FetchError: it leads out of https, or to no http(s) URL.
    """
    scheme = urlsplit(target).scheme
    if scheme not in ("http", "https") or (urlsplit(source).scheme == "https" and scheme == "http"):
        raise FetchError(
            f"{redact(source)}: redirects to {redact(target)}, which is not followed: only https is, from "
            "https",
            "The network may be a captive portal; open a page in a browser. Or use another --mirror.",
        )
    return check_url(target)


def redact(url: str) -> str:
    """``url`` without user name, password and query, for messages and records."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return url
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _raise_for_status(response: Response, url: str) -> None:
    status = response.status_code
    if status in (200, 206, 416):
        return
    text = f"{redact(url)}: the server answers {status} {response.reason}".rstrip()
    if status in _TRANSIENT:
        after = _number(response.headers.get("Retry-After", ""))
        raise TransientError(
            text,
            "The site is overloaded; try again later, or use another --mirror.",
            status=status,
            retry_after_s=None if after is None else float(after),
        )
    hint = {
        401: "The site wants a login.",
        403: "The site refuses; look at the URL and at any proxy.",
        404: "There is no such file; look at the URL or the --mirror.",
        410: "The file is gone.",
    }.get(status, "Look at the URL, or use another --mirror.")
    raise FetchError(text, hint, status=status)


def _number(text: str) -> int | None:
    """A header's number; None for anything else, as more digits than any size has."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def _reason(exc: Exception) -> str:
    """The innermost cause in one line: requests wraps it in its own and urllib3's words."""
    cause: BaseException = exc
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    return str(cause) or type(cause).__name__
