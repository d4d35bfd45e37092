"""What the file points at: base image, k3s release, overlays, time zone, key files."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Final

from fleet.boards import Soc
from fleet.spec.document import Key
from fleet.spec.draft import Draft, PathKind
from fleet.spec.model import UPSTREAM
from fleet.spec.notify_schema import channel_problems, named_files
from fleet.spec.problems import Severity
from fleet.spec.shape import Finding
from fleet.spec.values import suggest

BASE_CATALOGUE: Final = (
    "debian-trixie",
    "raspios-lite-bookworm",
    "raspios-lite-trixie",
    "ubuntu-22.04",
    "ubuntu-24.04",
    "ubuntu-26.04",
)
SECRET_FILES: Final = ("password_file", "community_file", "auth_password_file", "privacy_password_file")
WITHOUT_RP1_ETHERNET: Final = "debian-trixie"
"""Debian 13's kernel has no driver for the Ethernet port behind the RP1 of the BCM2712 boards."""


def check_files(draft: Draft) -> Iterator[Finding]:
    """Find references that lead nowhere."""
    yield from _base(draft)
    yield from _source(draft)
    for index, overlay in enumerate(draft.image.overlays or ()):
        if overlay is not None:
            yield from _path(draft, ("image", "overlays", index), overlay, PathKind.DIRECTORY, "overlay")
    control = draft.cluster.control
    if control is not None and control.dashboard is not None:
        for name in ("certificate", "key"):
            text = getattr(control.dashboard, name)
            if text is not None:
                key = ("cluster", "control", "dashboard", name)
                yield from _path(draft, key, text, PathKind.FILE, f"dashboard's {name}")
    yield from _login(draft)
    yield from _notify(draft)
    for node in draft.nodes:
        power = node.section.power
        for name in SECRET_FILES:
            path = getattr(power, name, None)
            if path is not None:
                what = name.removesuffix("_file").replace("_", " ")
                yield from _path(draft, node.at("power", name), path, PathKind.FILE, what)


def _notify(draft: Draft) -> Iterator[Finding]:
    sections = draft.document.notify or ()
    for key, message, hint in channel_problems(sections, draft.is_faulty):
        yield Finding(key, message, hint)
    for index, section in enumerate(sections):
        for name, path in named_files(section):
            yield from _path(draft, ("notify", index, name), path, PathKind.FILE, name.removesuffix("_file"))


def _kernel(draft: Draft, key: Key) -> Iterator[Finding]:
    names = [
        node.label for node in draft.nodes if node.section.board and node.section.board.soc is Soc.BCM2712
    ]
    if names and not draft.is_faulty(key):
        yield Finding(
            key,
            f"{WITHOUT_RP1_ETHERNET}'s kernel has no driver for the Ethernet port of {', '.join(names)}",
            "Take raspios-lite-trixie or ubuntu-24.04 for real boards; virtual ones have another port.",
            Severity.WARNING,
        )


def _path(draft: Draft, key: Key, text: str, expected: PathKind, what: str) -> Iterator[Finding]:
    full = draft.around.resolve(text)
    found = draft.around.probe(full)
    if found is PathKind.MISSING:
        hint = "Paths are relative to the file they stand in."
        yield Finding(key, f"the {what} {expected.value} {text!r} does not exist ({full})", hint)
    elif found is not expected:
        yield Finding(key, f"{text!r} is a {found.value}, the {what} is a {expected.value} ({full})")


def _base(draft: Draft) -> Iterator[Finding]:
    base, key = draft.image.base, ("image", "base")
    if base is None:
        yield from _kernel(draft, key)
        return
    if any(draft.is_faulty((*key, name)) for name in ("name", "url", "path")):
        return
    given = [name for name in ("name", "url", "path") if getattr(base, name) is not None]
    if len(given) != 1:
        found = " and ".join(repr(name) for name in given) or "nothing"
        hint = "Write a name, {url: …, sha256: …} or {path: …}."
        yield Finding(key, f"found {found}, expected one place to take the base image from", hint)
        return
    if base.name is not None:
        if base.name not in BASE_CATALOGUE:
            hint = f"For a file of yours write {{path: {base.name}}}." if "/" in base.name else ""
            message = f"{base.name!r} is not a base image that Bramble knows"
            yield Finding(key, message, hint or suggest(base.name, BASE_CATALOGUE))
        elif base.name == WITHOUT_RP1_ETHERNET:
            yield from _kernel(draft, key)
        if base.name in BASE_CATALOGUE and base.sha256 is not None:
            yield Finding((*key, "sha256"), "a base by name brings its own digest", "Remove 'sha256'.")
    if base.url is not None and base.sha256 is None and not draft.is_faulty((*key, "sha256")):
        hint = "Add 'sha256:' from the .sha256 file beside the image; a download is never taken unchecked."
        yield Finding(key, "the base image has a URL and no 'sha256'", hint)
    if base.path is not None:
        yield from _path(draft, (*key, "path"), base.path, PathKind.FILE, "base image")


def _source(draft: Draft) -> Iterator[Finding]:
    source, key = draft.k3s.source, ("cluster", "k3s", "source")
    if source is None or source == UPSTREAM or source.startswith(("http://", "https://")):
        return
    if "://" in source:
        hint = "Write 'upstream', an http(s) URL or a directory."
        yield Finding(key, f"{source!r} is not a place that Bramble can read a k3s release from", hint)
        return
    if "/" not in source and difflib.SequenceMatcher(None, source, UPSTREAM).ratio() > 0.7:
        yield Finding(
            key, f"{source!r} is not 'upstream', a URL or a directory", f"Did you mean {UPSTREAM!r}?"
        )
        return
    yield from _path(draft, key, source, PathKind.DIRECTORY, "k3s release")


def _login(draft: Draft) -> Iterator[Finding]:
    zone, known = draft.image.timezone, draft.around.timezones
    if zone is not None and known and zone not in known:
        near = difflib.get_close_matches(zone, known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else "'timedatectl list-timezones' shows the names."
        yield Finding(("image", "timezone"), f"{zone!r} is not in the time zone database", hint)
    keys = ("image", "user", "ssh_authorized_keys")
    if not draft.user.ssh_authorized_keys and not draft.is_faulty(keys):
        yield Finding(
            keys,
            "no SSH key is given, so nobody can log in to the nodes",
            "Paste the line of ~/.ssh/id_ed25519.pub; 'ssh-keygen -t ed25519' makes one.",
            Severity.WARNING,
        )
