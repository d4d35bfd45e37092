"""The HTTP boot mode above TCP: boot.sig, then boot.img, then the files inside. Pure.

One connection for each request. A connection that breaks off inside a file is continued by a Range request;
a 404 ends the mode, a redirect is followed once. TLS (HTTP_CACERT_HASH) is not emulated: the mode says so.

Source: Raspberry Pi documentation, "HTTP boot" (read 2026-11); rpi-eeprom#475, #700, #763; release note of
2022-02-16 (resume); strings in published EEPROM images. The request's order of headers is ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Final

from lab.bootloader.files import BoardStuckError, Boot, BootFiles, ModeFailedError
from lab.bootloader.loader import load
from lab.bootloader.ramdisk import open_ramdisk, require_signature, require_size

MAX_HEADER_BYTES: Final = 8192
MAX_SIGNATURE_BYTES: Final = 1024
MAX_RESUMES: Final = 5
USER_AGENT: Final = "bramble-lab"
_FILES: Final = ("boot.sig", "boot.img")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the files are: a host as an address, a port, and the folder without slashes around it."""

    host: IPv4Address
    port: int
    path: str


def find_origin(boot: Boot) -> Origin:
    """Where this EEPROM looks.

    Raises:
        ModeFailedError: It looks at a place that the emulation does not reach, or may not look at all.
    """
    settings = boot.profile.settings
    if not boot.profile.speaks_http:
        # An EEPROM that does not know the mode.
        raise ModeFailedError("Unsupported boot order 7")
    if settings.http_host is None:
        raise ModeFailedError(
            "HTTP_HOST is not set: the default server is Raspberry Pi's own, which the lab does not reach"
        )
    if settings.http_cacert_hash:
        raise ModeFailedError("HTTP_CACERT_HASH is set, and HTTPS is not emulated")
    if boot.public_key is None:
        raise ModeFailedError("HTTP_HOST is set, and the EEPROM holds no public key")
    try:
        host = IPv4Address(settings.http_host)
    except AddressValueError:
        raise ModeFailedError("HTTP: dns failed") from None
    return Origin(host, settings.http_port, settings.http_path)


class HttpBoot:
    """The requests of one attempt and what their answers come to.

    Attributes:
        request: Bytes of the next request, for a fresh connection; None while an answer is awaited, and at
            the end.
        outcome: None while it runs.
        console: Lines of the firmware's text; the owner empties it.
        fetched: (name, bytes) of files that are complete; the owner empties it.
        missing: (name, reason) of a file that the server refused; the owner empties it.
    """

    def __init__(self, boot: Boot, origin: Origin) -> None:
        self.request: bytes | None = None
        self.outcome: BootFiles | ModeFailedError | BoardStuckError | None = None
        self.console: list[str] = []
        self.fetched: list[tuple[str, int]] = []
        self.missing: list[tuple[str, str]] = []
        self._boot = boot
        self._origin = origin
        self._files: list[bytes] = []
        self._path = ""
        self._head = bytearray()
        self._body = bytearray()
        self._status = 0
        self._length: int | None = None
        self._resumes = 0
        self._redirects = 0
        self._ask(self._name_path())

    @property
    def file_name(self) -> str:
        """The file that is asked for now."""
        return _FILES[len(self._files)]

    def receive(self, data: bytes) -> None:
        """Take bytes of the answer."""
        if self.outcome is not None or self.request is not None:
            return
        if not self._status:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                if len(self._head) > MAX_HEADER_BYTES:
                    self._fail("the answer's header never ends")
                return
            head, rest = bytes(self._head[:end]), bytes(self._head[end + 4 :])
            if not self._take_head(head):
                return
            data = rest
        self._body += data
        if self._length is not None and len(self._body) >= self._length:
            self._finish(bytes(self._body[: self._length]))

    def handle_close(self) -> None:
        """The connection has ended; an answer that is not complete is asked for again, from where it is."""
        if self.outcome is not None or self.request is not None:
            return
        if self._status and self._length is None:
            self._finish(bytes(self._body))
            return
        self._resumes += 1
        if self._resumes > MAX_RESUMES:
            self._fail(f"the connection broke off {self._resumes} times")
        else:
            self._ask(self._path, resume=True)

    def handle_refused(self) -> None:
        """Nobody listens."""
        self._fail("the connection was refused")

    def _name_path(self) -> str:
        return "/".join(("", *filter(None, (self._origin.path, self.file_name))))

    def _ask(self, path: str, *, resume: bool = False) -> None:
        lines = [f"GET {path} HTTP/1.1", f"host: {self._origin.host}", f"User-Agent: {USER_AGENT}"]
        if resume and self._body:
            lines.append(f"Range: bytes={len(self._body)}-")
        else:
            self._body.clear()
        lines.append("Connection: close")
        self._path = path
        self._head.clear()
        self._status, self._length = 0, None
        self.request = ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")
        self.console.append(f"HTTP: GET request for http://{self._origin.host}:{self._origin.port}{path}")

    def _take_head(self, head: bytes) -> bool:
        """Read the answer's header; whether a body that is wanted follows."""
        lines = head.decode("latin-1").split("\r\n")
        match = re.match(r"HTTP/1\.[01] (\d{3})", lines[0])
        headers = {
            name.strip().lower(): value.strip()
            for name, colon, value in (line.partition(":") for line in lines[1:])
            if colon
        }
        if match is None:
            self._fail("the answer is not HTTP")
            return False
        self._status = int(match[1])
        match self._status:
            case 200 | 206:
                return self._take_length(headers)
            case 301 | 302 | 307 | 308:
                self._redirect(headers.get("location", ""))
            case _:
                reason = f"HTTP {self._status}"
                self.missing.append((self.file_name, reason))
                if self._boot.profile.http_missing_is_fatal:
                    self.outcome = BoardStuckError(f"{self.file_name}: {reason}")
                else:
                    self._fail(reason)
        return False

    def _take_length(self, headers: dict[str, str]) -> bool:
        if headers.get("transfer-encoding", "identity").lower() != "identity":
            self._fail("the answer is chunked, which the firmware does not read")
            return False
        text = headers.get("content-length", "")
        if not re.fullmatch(r"[0-9]{1,12}", text):
            return True  # it ends with the connection
        done = len(self._body) if self._status == 206 else 0
        if self._status == 200:
            self._body.clear()
        self._length = done + int(text)
        if self.file_name == _FILES[0]:
            if self._length > MAX_SIGNATURE_BYTES:
                self._fail(f"{self._length} bytes, a .sig file has at most {MAX_SIGNATURE_BYTES}")
                return False
            return True
        try:
            require_size(self._length, self._boot)
        except ModeFailedError as error:
            self.outcome = error
            return False
        return True

    def _redirect(self, location: str) -> None:
        match = re.fullmatch(r"(?:http://([0-9.]+)(?::([0-9]{1,5}))?)?(/[!-~]*)", location)
        self._redirects += 1
        if match is None or self._redirects > 1:
            self._fail(f"a redirect that is not followed: {location[:80]!r}")
            return
        if match[1]:
            server = (match[1], int(match[2] or 80))
            if server != (str(self._origin.host), self._origin.port):
                self._fail(f"a redirect to another server: {match[1]}")
                return
        self._ask(match[3])

    def _finish(self, content: bytes) -> None:
        name = self.file_name
        self.fetched.append((name, len(content)))
        self._files.append(content)
        self._resumes = self._redirects = 0
        if name == _FILES[0]:
            self.console.append("Loading boot.img ...")
            self._ask(self._name_path())
            return
        signature, image = self._files
        try:
            require_size(len(image), self._boot)
            require_signature(signature, image, self._boot.public_key)
            self.outcome = open_ramdisk(self._boot, image, load)
        except (ModeFailedError, BoardStuckError) as error:
            self.outcome = error

    def _fail(self, reason: str) -> None:
        name = _FILES[min(len(self._files), 1)]
        self.outcome = ModeFailedError(f"{name}: {reason}")
