"""What Bramble may decide by itself: whether the times at which it may can be told, and are of any use."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Final

from fleet.spec.draft import Draft
from fleet.spec.model import Role
from fleet.spec.problems import Severity
from fleet.spec.schema import ReimageSection
from fleet.spec.shape import Finding

_KEY: Final = ("policy", "reimage")
MIN_AFTER_S: Final = 300
"""A reboot with a check of the filesystem takes minutes; what is silent so long need not have failed."""


def check_policy(draft: Draft) -> Iterator[Finding]:
    """Find windows in no known time zone, and settings that contradict each other."""
    policy = draft.document.policy
    section = policy.reimage if policy and policy.reimage else ReimageSection()
    for index, window in enumerate(section.windows or ()):
        if window is not None:
            yield from _zone(draft, index, window.zone)
    if section.windows == [] and not draft.is_faulty((*_KEY, "windows")):
        yield Finding(
            (*_KEY, "windows"),
            "the list of windows is empty, which means: at any time",
            "Leave the key out, or write when; 'when_failed: false' is what forbids it.",
            Severity.WARNING,
        )
    if section.dry_run and not section.when_failed:
        yield Finding(
            (*_KEY, "dry_run"),
            "'dry_run' has no effect while 'when_failed' is false",
            "Write 'when_failed: true' beside it; 'bramble policy' shows the same without either.",
            Severity.WARNING,
        )
    if section.after is not None and section.after < MIN_AFTER_S:
        yield Finding(
            (*_KEY, "after"),
            f"a node is re-installed after {section.after} s of silence, and a reboot may take as long",
            f"Give it {MIN_AFTER_S // 60}m or more.",
            Severity.WARNING,
        )
    servers = [node for node in draft.nodes if node.section.role is Role.SERVER]
    if section.when_failed and len(servers) in (1, 2):
        yield Finding(
            (*_KEY, "when_failed"),
            f"with {len(servers)} server{'s' if len(servers) > 1 else ''} a failed one is never re-installed "
            "by itself: the cluster's state may be on it alone",
            "It counts for agents; three servers are the least that can lose one.",
            Severity.WARNING,
        )


def _zone(draft: Draft, index: int, zone: str | None) -> Iterator[Finding]:
    known = draft.around.timezones
    key = (*_KEY, "windows", index)
    if not known:
        yield Finding(
            key,
            "this machine has no time zone database, so when a window is open cannot be told",
            "Install package 'tzdata'.",
        )
    elif zone is not None and zone not in known:
        near = difflib.get_close_matches(zone, known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else "'timedatectl list-timezones' shows the names."
        yield Finding(key, f"{zone!r} is not a time zone", hint)
