"""The apt sources of an image, with the archives replaced that this machine reaches by another address. Pure.

An image keeps its sources; what is changed here is a copy that only the build uses. Both forms are read:
one-line ``deb [options] URI suite component…`` in ``*.list``, and stanzas with ``URIs:`` in ``*.sources``.

Source: sources.list(5) of apt 3.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_ARCHIVE_HOSTS: Final = ("deb", "ftp", "httpredir")
_SECURITY_HOSTS: Final = ("deb", "security")
DEBIAN: Final = tuple(f"http://{host}.debian.org/debian" for host in _ARCHIVE_HOSTS)
DEBIAN_SECURITY: Final = (
    *(f"http://{host}.debian.org/debian-security" for host in _SECURITY_HOSTS),
    "http://security.debian.org",
)
_ONE_LINE: Final = re.compile(r"^\s*deb(?:-src)?\s+(?:\[[^\]]*\]\s+)?(?P<uri>\S+)\s")
_URIS: Final = re.compile(r"^(?P<name>URIs:)(?P<uris>.*(?:\n[ \t].*)*)", re.IGNORECASE | re.MULTILINE)
_URI: Final = re.compile(r"[a-z0-9+.-]+:\S+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of apt's sources: its name below /etc/apt (``sources.list``, ``sources.list.d/x.sources``)."""

    name: str
    text: str

    @property
    def flat_name(self) -> str:
        """A name for a directory that holds all of them."""
        return "00-sources.list" if self.name == "sources.list" else self.name.rpartition("/")[2]


def debian_replacements(main: str, security: str | None) -> dict[str, str]:
    """Archive → replacement for Debian's own addresses, when Debian is to come from a mirror."""
    replaced = dict.fromkeys(DEBIAN, main.rstrip("/"))
    if security is not None:
        replaced.update(dict.fromkeys(DEBIAN_SECURITY, security.rstrip("/")))
    return replaced


def parse_replacements(text: str) -> dict[str, str]:
    """Archive → replacement from ``FROM=TO`` words.

    Raises:
        ValueError: a word has another form; the text says which.
    """
    replaced = {}
    for word in text.split():
        before, _, after = word.partition("=")
        if not all(part.startswith(("http://", "https://")) for part in (before, after)):
            raise ValueError(
                f"{word!r} is not FROM=TO with two addresses that start with http:// or https://"
            )
        replaced[before.rstrip("/")] = after.rstrip("/")
    return replaced


def find_uris(sources: Iterable[SourceFile]) -> list[str]:
    """The addresses that the sources name, each once, in their order."""
    found: dict[str, None] = {}
    for source in sources:
        if source.name.endswith(".sources"):
            uris = [uri for match in _URIS.finditer(source.text) for uri in _URI.findall(match["uris"])]
        else:
            lines = (_ONE_LINE.match(line) for line in source.text.splitlines())
            uris = [match["uri"] for match in lines if match]
        found.update(dict.fromkeys(uris))
    return list(found)


def with_replacements(sources: Iterable[SourceFile], replaced: Mapping[str, str]) -> list[SourceFile]:
    """The same sources with other addresses. A longer address goes before one that it begins with."""
    order = sorted(replaced, key=len, reverse=True)
    return [SourceFile(source.name, _with_replacements(source, order, replaced)) for source in sources]


def _with_replacements(source: SourceFile, order: Sequence[str], replaced: Mapping[str, str]) -> str:
    if source.name.endswith(".sources"):
        return _URIS.sub(
            lambda match: (
                match["name"] + _URI.sub(lambda uri: _moved(uri[0], order, replaced), match["uris"])
            ),
            source.text,
        )
    lines = []
    for line in source.text.splitlines(keepends=True):
        match = _ONE_LINE.match(line)
        if match:
            start, end = match.span("uri")
            line = line[:start] + _moved(match["uri"], order, replaced) + line[end:]
        lines.append(line)
    return "".join(lines)


def _moved(uri: str, order: Sequence[str], replaced: Mapping[str, str]) -> str:
    secure = uri.replace("https://", "http://", 1)
    for archive in order:
        for form in (uri, secure):
            rest = form.removeprefix(archive)
            if rest != form and rest in ("", "/"):
                return replaced[archive] + rest
    return uri
