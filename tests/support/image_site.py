"""A download site on loopback that behaves as the real ones do, and misbehaves on request."""

from __future__ import annotations

import contextlib
import hashlib
import html
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

from imagebuilder.runner import run


@dataclass
class Page:
    """One file of the site, and how it is served."""

    body: bytes = b""
    status: int = 200
    location: str | None = None
    """Answer with a redirect to here."""
    ranges: bool = True
    etag: str | None = ""
    """"" stands for one made from the content; None: no validator at all."""
    announce: int | None = None
    """Content-Length that is sent instead of the true one."""
    drop_after: list[int] = field(default_factory=list)
    """For each of the next answers with a body: after how many bytes the connection is cut."""
    fail: list[int] = field(default_factory=list)
    """Status codes of the next answers."""
    headers: dict[str, str] = field(default_factory=dict)
    hook: Callable[[], None] | None = None
    """Called before the body is sent."""

    @property
    def tag(self) -> str | None:
        return f'"{hashlib.sha256(self.body).hexdigest()[:16]}"' if self.etag == "" else self.etag


class Site:
    """Paths and pages; folders list what is in them. ``seen`` holds (path, Range or None, status) in
    order."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.seen: list[tuple[str, str | None, int]] = []
        self.lock = threading.Lock()
        self.url = ""

    def put(self, path: str, body: bytes) -> Page:
        page = Page(body)
        self.pages[path] = page
        return page

    def bodies_sent(self, path: str) -> int:
        """How many answers with content there were for ``path``."""
        return sum(1 for seen, _, status in self.seen if seen == path and status in (200, 206))

    def listing(self, path: str) -> bytes | None:
        below = {page.removeprefix(path) for page in self.pages if page.startswith(path)} - {""}
        names = {name.split("/", 1)[0] + ("/" if "/" in name else "") for name in below}
        if not path.endswith("/") or not names:
            return None
        rows = "".join(f'<a href="{quote(name)}">{html.escape(name)}</a>\n' for name in sorted(names))
        return f'<html><a href="?C=N;O=D">Name</a> <a href="/">Parent</a>\n{rows}</html>'.encode()


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(self.path.split("?")[0])
            page = site.pages.get(path)
            if page is None:
                listing = site.listing(path)
                page = Page(listing) if listing is not None else Page(b"no such file\n", status=404)
            with site.lock:
                status = page.fail.pop(0) if page.fail else page.status
            wanted = self.headers.get("Range")
            body, start = page.body, 0
            extra = dict(page.headers)
            if page.location is not None:
                status, extra["Location"], body = 302, page.location, b""
            elif status == 200 and wanted and page.ranges:
                condition = self.headers.get("If-Range")
                if condition is None or condition == page.tag:
                    start = int(wanted.removeprefix("bytes=").split("-")[0])
                    if start >= len(body):
                        status, extra["Content-Range"], body = 416, f"bytes */{len(body)}", b""
                    else:
                        status = 206
                        extra["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                        body = body[start:]
            elif status != 200:
                body = b"" if status == 404 and page.status != 404 else page.body
            extra |= {name: page.headers[name] for name in page.headers}
            if self.command == "GET":
                site.seen.append((path, wanted, status))
            self.send_response(status)
            if page.tag is not None and status in (200, 206):
                self.send_header("ETag", page.tag)
            for name, value in extra.items():
                self.send_header(name, value)
            announced = len(body) if page.announce is None else page.announce
            self.send_header("Content-Length", str(announced))
            self.end_headers()
            if self.command == "HEAD":
                return
            if page.hook is not None:
                page.hook()
            cut = None
            if status in (200, 206):
                with site.lock:
                    cut = page.drop_after.pop(0) if page.drop_after else None
            with contextlib.suppress(OSError):
                self.wfile.write(body if cut is None else body[:cut])
                if cut is not None or page.announce is not None:
                    self.wfile.flush()
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up whenever they like, or are killed: that is what is tested."""


@contextlib.contextmanager
def image_site() -> Iterator[Site]:
    """A site at ``url`` (ends in ``/``) until the block ends."""
    site = Site()
    server = _Server(("127.0.0.1", 0), _handler(site))
    site.url = f"http://127.0.0.1:{server.server_address[1]}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass(frozen=True)
class SigningKey:
    """A throw-away OpenPGP key: ``public`` is its exported form, ``fingerprint`` that of the primary key."""

    home: Path
    fingerprint: str

    @property
    def public(self) -> bytes:
        return self._gpg("--export", self.fingerprint)

    @property
    def armoured(self) -> bytes:
        return self._gpg("--armor", "--export", self.fingerprint)

    def sign(self, data: bytes, *, armour: bool = False) -> bytes:
        """A detached signature of ``data``."""
        form = ["--armor"] if armour else []
        return self._gpg(*form, "--local-user", self.fingerprint, "--detach-sign", data=data)

    def sign_clearly(self, data: bytes) -> bytes:
        """``data`` with a signature around it, as an archive's InRelease."""
        return self._gpg("--local-user", self.fingerprint, "--clear-sign", data=data)

    def _gpg(self, *words: str, data: bytes = b"") -> bytes:
        return run(["gpg", "--homedir", self.home, "--batch", "--quiet", *words], input=data).stdout


def make_key(home: Path, name: str, *, created: str | None = None, expires: str = "never") -> SigningKey:
    """Make a key in the GnuPG home ``home`` (short: gpg-agent's socket lies in it).

    Args:
        created: point in time that gpg takes for now, as ``20200101T000000``.
        expires: as gpg's ``--quick-generate-key`` takes it.
    """
    home.mkdir(mode=0o700, exist_ok=True)
    words = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", ""]
    if created is not None:
        words += ["--faked-system-time", created]
    run([*words, "--quick-generate-key", f"{name} <{name}@example.org>", "ed25519", "sign", expires])
    listed = run(
        ["gpg", "--homedir", home, "--batch", "--with-colons", "--list-keys", f"={name} <{name}@example.org>"]
    )
    lines = [line.split(":") for line in listed.stdout.decode().splitlines()]
    return SigningKey(home, next(line[9] for line in lines if line[0] == "fpr"))


def end_agent(home: Path) -> None:
    """End the gpg-agent that gpg started for ``home``."""
    run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], check=False)
