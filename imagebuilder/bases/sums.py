"""Lists of SHA-256 digests as download sites publish them. Pure: text in, values out.

<64 hex>  name          GNU coreutils, text mode           <64 hex> *name        binary mode
SHA256 (name) = <64 hex>   BSD                             <64 hex>              a bare digest, for one file
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from imagebuilder.errors import ImageBuilderError

MAX_BYTES: Final = 1 << 20
"""More than any site lists; a larger answer is not a list of digests."""

_GNU: Final = re.compile(r"\\?([0-9A-Fa-f]+)[ \t]+\*?(\S.*)")
_BSD: Final = re.compile(r"SHA256 \((.+)\) = ([0-9A-Fa-f]+)")
_BARE: Final = re.compile(r"[0-9A-Fa-f]+")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_OTHER: Final = {32: "MD5", 40: "SHA-1", 56: "SHA-224", 96: "SHA-384", 128: "SHA-512"}


class SumsError(ImageBuilderError):
    """A list of digests that does not say what was asked of it."""


@dataclass(frozen=True, slots=True)
class Sums:
    """A list of digests. ``by_name`` maps a file's name to its digest, 64 lower-case hex digits; ``bare`` is
    the digest of a list that names no file."""

    source: str
    by_name: dict[str, str]
    bare: str | None = None

    def require(self, name: str) -> str:
        """The digest of file ``name``.

        Raises:
            SumsError: it is not listed; the message names what is.
        """
        if found := self.by_name.get(name):
            return found
        if self.bare is not None:
            return self.bare
        listed = ", ".join(sorted(self.by_name)[:5])
        more = f" and {len(self.by_name) - 5} more" if len(self.by_name) > 5 else ""
        raise SumsError(
            f"{self.source}: no digest of {name!r}; it lists {listed}{more}",
            "List and image do not belong together. Try again later, or use another --mirror.",
        )


def parse_sums(data: bytes, source: str) -> Sums:
    """Read a list of SHA-256 digests.

    Args:
        data: the file; a byte order mark, CRLF and empty or comment lines do no harm.
        source: what to call it in errors.

    Raises:
        SumsError: with every line that is not understood, and names listed twice with different digests.
    """
    text = data.decode("utf-8-sig", errors="replace")
    by_name: dict[str, str] = {}
    bare: list[str] = []
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        digest, name = _split(line)
        if not _DIGEST.fullmatch(digest):
            problems.append(f"line {number}: {_not_a_digest(digest, line)}")
        elif name is None:
            bare.append(digest)
        elif by_name.setdefault(name, digest) != digest:
            problems.append(f"line {number}: {name!r} is listed a second time with another digest")
    if not problems and not by_name and len(bare) != 1:
        problems.append("it holds no lines like '<64 hex digits>  <file name>'")
    if by_name and bare:
        problems.append("it holds digests with and without a file name")
    if problems:
        shown = problems[:5] + ([f"and {len(problems) - 5} more lines"] if len(problems) > 5 else [])
        raise SumsError(
            "\n".join(f"{source}: {problem}" for problem in shown),
            "A list of SHA-256 digests was expected there; the site may answer with an error page.",
        )
    return Sums(source, by_name, bare[0] if bare else None)


def _split(line: str) -> tuple[str, str | None]:
    """Digest and file name (without folders) of one line; an empty digest where it is of no known form."""
    if match := _BSD.fullmatch(line):
        return match[2].lower(), _last_part(match[1])
    if match := _GNU.fullmatch(line):
        return match[1].lower(), _last_part(match[2])
    return (line.lower(), None) if _BARE.fullmatch(line) else ("", None)


def _last_part(name: str) -> str:
    return name.rpartition("/")[2]


def _not_a_digest(digest: str, line: str) -> str:
    if kind := _OTHER.get(len(digest)):
        return f"{digest[:16]}… is a {kind} digest, expected SHA-256"
    if digest:
        return f"{digest[:16]}… has {len(digest)} hex digits, a SHA-256 digest has 64"
    return f"{line[:60]!r} is not a digest and a file name"
