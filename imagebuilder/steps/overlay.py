"""Overlays: trees of plain files that are laid into the image.

    <overlay>/rootfs/…        files as they shall be in the image; what lies below boot/firmware goes to the
    boot partition <overlay>/overlay.toml    what plain files cannot say (packaging tools lose it): owners,
    modes, links, empty directories

        [files]        "/path" = { mode = "0600", uid = 0, gid = 0 }     for a file of rootfs/
                       and xattrs = { "security.capability" = "0100…" }      values as getfattr -e hex writes
        [directories]  "/path" = { mode = "0700", uid = 0, gid = 0 }     made if absent
        [links]        "/path" = "target"

Without a word in overlay.toml a file is root's with 0644, or 0755 if its owner may execute it. A directory
without overlay.toml and rootfs/ is an error, not an empty overlay.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from imagebuilder.disk.edits import Edit, PutBootFile, PutDirectory, PutFile, PutLink
from imagebuilder.errors import ImageBuilderError
from imagebuilder.steps.step import Context, Json

BOOT_MOUNT: Final = "/boot/firmware"
MANIFEST: Final = "overlay.toml"
_SECTIONS: Final = ("files", "directories", "links")
_ATTRIBUTES: Final = ("mode", "uid", "gid", "xattrs")
_XATTR_NAME: Final = re.compile(r"(user|trusted|security)\.[!-~]{1,200}")
_HEX: Final = re.compile(r"(?:0x)?((?:[0-9a-fA-F]{2})*)")
_MODE: Final = re.compile(r"0?[0-7]{3,4}")
_MAX_ID: Final = 0xFFFF_FFFE


class OverlayError(ImageBuilderError):
    """All that is wrong with an overlay."""

    def __init__(self, directory: Path, problems: Sequence[str]) -> None:
        self.path = directory
        self.problems = tuple(problems)
        super().__init__(
            "\n".join(f"{directory}: {problem}" for problem in problems), "Mend the overlay and build again."
        )


@dataclass(frozen=True, slots=True)
class Overlay:
    """A loaded overlay: a step. Contents are digested at loading, and read when the image is built."""

    name: str
    entries: tuple[PutFile | PutLink | PutDirectory, ...]
    digests: Mapping[str, str]

    def identity(self) -> Mapping[str, Json]:
        return {"overlay": [_plain(entry, self.digests) for entry in self.entries]}

    def edits(self, context: Context) -> Sequence[Edit]:
        return [_routed(entry) for entry in self.entries]


@dataclass(frozen=True, slots=True)
class OwnOverlay:
    """One of Bramble's own overlays: laid into images whose dialect asks for it."""

    overlay: Overlay

    @property
    def name(self) -> str:
        return self.overlay.name

    def identity(self) -> Mapping[str, Json]:
        return self.overlay.identity()

    def edits(self, context: Context) -> Sequence[Edit]:
        return self.overlay.edits(context) if self.name in context.manner.overlays else []


@dataclass(frozen=True, slots=True)
class _Given:
    """What overlay.toml says of one path; ``mode`` None: not a word."""

    mode: int | None = None
    uid: int = 0
    gid: int = 0
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


def load_overlay(directory: Path, name: str) -> Overlay:
    """Read an overlay.

    Raises:
        OverlayError: with every problem that it has.
    """
    rootfs = directory / "rootfs"
    problems: list[str] = []
    table = _load_table(directory / MANIFEST, problems)
    if not rootfs.is_dir() and not table:
        problems.append("holds neither rootfs/ nor overlay.toml")
    files = _files(rootfs, problems)
    attributes = _attributes(table.get("files", {}), "files", problems)
    for path in sorted(set(attributes) - set(files)):
        problems.append(f"{MANIFEST}: [files] names {path!r}, which is not in rootfs/")
    entries: list[PutFile | PutLink | PutDirectory] = []
    for path, given in sorted(_attributes(table.get("directories", {}), "directories", problems).items()):
        mode = 0o755 if given.mode is None else given.mode
        entries.append(PutDirectory(path=path, mode=mode, uid=given.uid, gid=given.gid))
        if given.xattrs:
            problems.append(f"{MANIFEST}: [directories] {path!r}: xattrs are for files")
    for path, source in sorted(files.items()):
        given = attributes.get(path, _Given())
        mode = (0o755 if source.stat().st_mode & 0o100 else 0o644) if given.mode is None else given.mode
        entries.append(
            PutFile(path=path, content=source, mode=mode, uid=given.uid, gid=given.gid, xattrs=given.xattrs)
        )
    entries.extend(_links(table.get("links", {}), files, problems))
    for entry in entries:
        if _in_boot(entry.path) and not isinstance(entry, PutFile):
            problems.append(f"{entry.path}: the boot partition is a FAT and holds only plain files")
    if problems:
        raise OverlayError(directory, problems)
    digests = {path: hashlib.sha256(source.read_bytes()).hexdigest() for path, source in files.items()}
    return Overlay(name, tuple(entries), digests)


def _load_table(path: Path, problems: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        problems.append(f"{MANIFEST}: {exc}")
        return {}
    for key in table:
        if key not in _SECTIONS:
            problems.append(f"{MANIFEST}: unknown section {key!r}{_suggestion(key, _SECTIONS)}")
    for key in _SECTIONS:
        if not isinstance(table.get(key, {}), dict):
            problems.append(f"{MANIFEST}: {key!r} must be a table of paths")
            del table[key]
    return {"": None, **table}


def _files(rootfs: Path, problems: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for source in sorted(rootfs.rglob("*")) if rootfs.is_dir() else ():
        path = f"/{source.relative_to(rootfs).as_posix()}"
        if source.is_symlink():
            problems.append(f"rootfs{path} is a link; put it under [links] in {MANIFEST}")
        elif source.is_file():
            if _checked(path, "rootfs", problems):
                found[path] = source
        elif not source.is_dir():
            problems.append(f"rootfs{path} is neither a file nor a directory")
    return found


def _attributes(table: Mapping[str, Any], section: str, problems: list[str]) -> dict[str, _Given]:
    result: dict[str, _Given] = {}
    for path, given in table.items():
        where = f"{MANIFEST}: [{section}] {path!r}"
        if not _checked(path, f"{MANIFEST}: [{section}]", problems):
            continue
        if not isinstance(given, dict):
            problems.append(f'{where}: expected a table like {{ mode = "0600" }}, found {given!r}')
            continue
        problems.extend(
            f"{where}: unknown key {key!r}{_suggestion(key, _ATTRIBUTES)}"
            for key in given
            if key not in _ATTRIBUTES
        )
        mode = given.get("mode")
        if mode is not None and not (isinstance(mode, str) and _MODE.fullmatch(mode)):
            problems.append(f'{where}: mode is {mode!r}, expected octal digits as text, like "0600"')
            mode = None
        owners = []
        for key in ("uid", "gid"):
            value = given.get(key, 0)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_ID:
                problems.append(f"{where}: {key} is {value!r}, expected a number from 0")
                value = 0
            owners.append(value)
        xattrs = _xattrs(given.get("xattrs", {}), where, problems)
        result[path] = _Given(None if mode is None else int(mode, 8), owners[0], owners[1], xattrs)
    return result


def _xattrs(given: object, where: str, problems: list[str]) -> dict[str, bytes]:
    if not isinstance(given, dict):
        problems.append(f"{where}: xattrs is {given!r}, expected a table of names")
        return {}
    values: dict[str, bytes] = {}
    for name, value in given.items():
        match = _HEX.fullmatch(value) if isinstance(value, str) else None
        if not _XATTR_NAME.fullmatch(name):
            problems.append(f"{where}: {name!r} is no attribute of user, trusted or security")
        elif match is None:
            problems.append(
                f"{where}: {name} is {value!r}, expected bytes in hex, as 'getfattr -e hex' writes"
            )
        else:
            values[name] = bytes.fromhex(match[1])
    return values


def _links(table: Mapping[str, Any], files: Mapping[str, Path], problems: list[str]) -> list[PutLink]:
    links = []
    for path, target in sorted(table.items()):
        if not _checked(path, f"{MANIFEST}: [links]", problems):
            continue
        if not isinstance(target, str) or not target:
            problems.append(
                f"{MANIFEST}: [links] {path!r}: expected the link's target as text, found {target!r}"
            )
        elif path in files:
            problems.append(f"{MANIFEST}: [links] {path!r} is a file in rootfs/ as well")
        else:
            links.append(PutLink(path=path, target=target))
    return links


def _checked(path: str, where: str, problems: list[str]) -> bool:
    plain = path.startswith("/") and path != "/" and posixpath.normpath(path) == path
    if not plain:
        problems.append(f"{where}: {path!r} is not a plain absolute path without '..'")
    elif any(character in '"\\' or not character.isprintable() for character in path):
        problems.append(
            f"{where}: {path!r} holds a quote, a backslash, a control character or bytes that are no UTF-8"
        )
        plain = False
    return plain


def _in_boot(path: str) -> bool:
    return path == BOOT_MOUNT or path.startswith(f"{BOOT_MOUNT}/")


def _routed(entry: PutFile | PutLink | PutDirectory) -> Edit:
    if isinstance(entry, PutFile) and _in_boot(entry.path):
        content = entry.content if isinstance(entry.content, bytes) else entry.content.read_bytes()
        return PutBootFile(path=entry.path.removeprefix(BOOT_MOUNT), content=content)
    return entry


def _plain(entry: PutFile | PutLink | PutDirectory, digests: Mapping[str, str]) -> list[Json]:
    match entry:
        case PutFile():
            xattrs = {name: value.hex() for name, value in entry.xattrs.items()}
            return ["file", entry.path, entry.mode, entry.uid, entry.gid, digests[entry.path], xattrs]
        case PutLink():
            return ["link", entry.path, entry.target]
        case PutDirectory():
            return ["directory", entry.path, entry.mode, entry.uid, entry.gid]


def _suggestion(word: str, known: Sequence[str]) -> str:
    close = get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
