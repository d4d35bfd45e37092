"""What was told, to whom, and what still waits. Pure; the desk keeps it in the store.

A finding (`fleet.attention`) is told once while it holds, and once when it is over. It has to hold for
`SETTLE_S` before it is told and be gone for as long before it is over: a node that restarts is no news. One
that comes back within `QUIET_S` is not told again before that time has passed. Alarms of the timeline have no
end; the same words about the same node are told once in `SAME_ALARM_S`.

Nothing here counts on being called at certain times: the caller hands in what holds now.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from fleet.attention import Finding, Urgency
from fleet.spec.notify_model import Channel, Level

SETTLE_S: Final = 30.0
QUIET_S: Final = 15 * 60.0
SAME_ALARM_S: Final = 6 * 3600.0
GIVE_UP_S: Final = 24 * 3600.0
"""A message that no server took for a day tells of yesterday."""
MAX_WAITING: Final = 200
"""Of one channel; older ones are dropped and counted."""


class Kind(StrEnum):
    """What a notice is about."""

    PROBLEM = "problem"
    RESOLVED = "resolved"
    ALARM = "alarm"
    TEST = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One message to people.

    Attributes:
        id: Unique; the same when it is sent again, so that a receiver can tell.
        key: Of the finding: the same when it begins and when it is over.
    """

    id: str
    kind: Kind
    key: str
    code: str
    subject: str
    urgency: Urgency
    text: str
    hint: str
    command: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A notice on its way to one channel."""

    channel: str
    notice: Notice


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A finding that people know of. `gone_at` is when it was first missed; None while it holds."""

    finding: Finding
    at: float
    gone_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Everything that has to survive a restart.

    Attributes:
        settling: Findings that hold and were not told yet: key → since when.
        told: Those that were.
        alarms: Subject and text → when it was told last; for `SAME_ALARM_S`.
        quiet: Key → when it was told last; for `QUIET_S` after it was over.
        last_event: Id of the newest timeline entry that was looked at; None before the first look.
        counter: Notices made so far, for their ids.
        dropped: Waiting notices that were too many or too old, by channel.
    """

    settling: Mapping[str, float] = field(default_factory=dict)
    told: Mapping[str, Told] = field(default_factory=dict)
    quiet: Mapping[str, float] = field(default_factory=dict)
    alarms: Mapping[str, float] = field(default_factory=dict)
    waiting: tuple[Waiting, ...] = ()
    last_event: int | None = None
    counter: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """An entry of the timeline that nobody may miss."""

    id: int
    subject: str
    text: str
    hint: str
    at: float


def advance(
    ledger: Ledger, found: Iterable[Finding], alarms: Sequence[Alarm], channels: Sequence[Channel], now: float
) -> Ledger:
    """The ledger after a look at what holds now.

    Args:
        alarms: Those after `ledger.last_event`; the caller sets that forward itself.
    """
    holding = {finding.key: finding for finding in found}
    settling = {key: ledger.settling.get(key, now) for key in holding if key not in ledger.told}
    told = dict(ledger.told)
    quiet = {key: at for key, at in ledger.quiet.items() if now - at < QUIET_S}
    notices: list[tuple[Kind, Finding, float]] = []
    for key, since in list(settling.items()):
        if now - since < SETTLE_S or key in quiet:
            continue
        del settling[key]
        told[key] = Told(finding=holding[key], at=now)
        notices.append((Kind.PROBLEM, holding[key], now))
    for key, known in ledger.told.items():
        if key in holding:
            told[key] = replace(known, gone_at=None)
        elif known.gone_at is None:
            told[key] = replace(known, gone_at=now)
        elif now - known.gone_at >= SETTLE_S:
            del told[key]
            quiet[key] = known.at
            notices.append((Kind.RESOLVED, known.finding, now))
    heard = {words: at for words, at in ledger.alarms.items() if now - at < SAME_ALARM_S}
    for alarm in alarms:
        words = f"{alarm.subject}: {alarm.text}"
        if words not in heard:
            heard[words] = now
            notices.append((Kind.ALARM, _of_alarm(alarm), alarm.at))
    after = replace(ledger, settling=settling, told=told, quiet=quiet, alarms=heard)
    for kind, finding, at in notices:
        after = _post(after, kind, finding, channels, at)
    return _bounded(after, channels, now)


def take(ledger: Ledger, channel: str) -> tuple[Notice, ...]:
    """What waits for a channel, the oldest first."""
    return tuple(one.notice for one in ledger.waiting if one.channel == channel)


def delivered(ledger: Ledger, channel: str, notices: Iterable[Notice]) -> Ledger:
    """The ledger once a channel has taken these."""
    gone = {notice.id for notice in notices}
    rest = tuple(one for one in ledger.waiting if one.channel != channel or one.notice.id not in gone)
    return replace(ledger, waiting=rest)


def _of_alarm(alarm: Alarm) -> Finding:
    return Finding(
        code="alarm",
        subject=alarm.subject,
        urgency=Urgency.NOW,
        text=f"{alarm.subject}: {alarm.text}" if alarm.subject else alarm.text,
        hint=alarm.hint,
        command=f"bramble show {alarm.subject}" if alarm.subject else "bramble status",
        since=alarm.at,
    )


def _post(ledger: Ledger, kind: Kind, finding: Finding, channels: Sequence[Channel], at: float) -> Ledger:
    number = ledger.counter + 1
    notice = Notice(
        id=f"{int(at):x}-{number}",
        kind=kind,
        key=finding.key,
        code=finding.code,
        subject=finding.subject,
        urgency=finding.urgency,
        text=finding.text,
        hint=finding.hint if kind is not Kind.RESOLVED else "",
        command=finding.command if kind is not Kind.RESOLVED else "",
        at=at,
    )
    wanted = [Waiting(channel=one.name, notice=notice) for one in channels if _wants(one, notice)]
    return replace(ledger, counter=number, waiting=(*ledger.waiting, *wanted))


def _wants(channel: Channel, notice: Notice) -> bool:
    if notice.kind is Kind.RESOLVED and not channel.resolved:
        return False
    return channel.level is Level.ALL or notice.urgency is Urgency.NOW


def _bounded(ledger: Ledger, channels: Sequence[Channel], now: float) -> Ledger:
    """Without what waits for channels that there are no more, for too long, or in too great a number."""
    kept: list[Waiting] = []
    dropped = dict(ledger.dropped)
    for channel in channels:
        mine = [one for one in ledger.waiting if one.channel == channel.name]
        fresh = [one for one in mine if now - one.notice.at < GIVE_UP_S][-MAX_WAITING:]
        lost = len(mine) - len(fresh)
        if lost:
            dropped[channel.name] = dropped.get(channel.name, 0) + lost
        kept += fresh
    return replace(ledger, waiting=tuple(kept), dropped=dropped)


def to_json(ledger: Ledger) -> str:
    """For the store."""
    return json.dumps(asdict(ledger))


def from_json(text: str) -> Ledger:
    """What `to_json` wrote. What another version wrote, or nobody, is an empty ledger: telling people twice
    is better than not at all.
    """
    try:
        value: dict[str, Any] = json.loads(text)
        return Ledger(
            settling={str(key): float(at) for key, at in value["settling"].items()},
            told={
                str(key): Told(finding=_finding(one["finding"]), at=float(one["at"]), gone_at=one["gone_at"])
                for key, one in value["told"].items()
            },
            quiet={str(key): float(at) for key, at in value["quiet"].items()},
            alarms={str(words): float(at) for words, at in value["alarms"].items()},
            waiting=tuple(
                Waiting(channel=str(one["channel"]), notice=_notice(one["notice"]))
                for one in value["waiting"]
            ),
            last_event=None if value["last_event"] is None else int(value["last_event"]),
            counter=int(value["counter"]),
            dropped={str(key): int(count) for key, count in value["dropped"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return Ledger()


def _finding(value: Mapping[str, Any]) -> Finding:
    return Finding(**{**value, "urgency": Urgency(value["urgency"])})


def _notice(value: Mapping[str, Any]) -> Notice:
    return Notice(**{**value, "kind": Kind(value["kind"]), "urgency": Urgency(value["urgency"])})
