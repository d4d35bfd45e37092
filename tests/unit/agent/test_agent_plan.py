"""Observed and desired → actions; each kind of action with its case of nothing to do."""

from __future__ import annotations

import dataclasses

import pytest

from agent.plan import (
    Adopt,
    Configure,
    Enrol,
    FetchDesired,
    FinishJoin,
    ForgetTicket,
    Join,
    MarkDone,
    Observed,
    Renew,
    StartK3s,
    lost_membership,
    newer,
    plan,
)
from agent.protocol import Desired, K3sState, NodeFile, Problem
from agent.state import JoinRecord

MEMBER = Observed(enrolled=True)
JOIN = Desired(generation=4, join=True)
WAIT = Desired(generation=3, join=False)
RECORD = JoinRecord(generation=4, unit="k3s-agent.service")
CLEAN = dataclasses.replace(RECORD, cleaned=True)
UNTOLD = dataclasses.replace(RECORD, pending="start")
AGAIN = dataclasses.replace(RECORD, pending="restart")
GATE = Problem("clock", "m", "h")
KEEP = (NodeFile("/etc/rancher/k3s/config.yaml.d/50-bramble.yaml", "0600", "server: https://s2:6443"),)
SETTINGS = Desired(5, join=True, material=4, files=KEEP)


@pytest.mark.parametrize(
    ("changes", "actions"),
    [
        ({"enrolled": False, "has_ticket": True, "desired": JOIN}, (Enrol(),)),
        ({}, ()),
        ({"has_ticket": True}, (ForgetTicket(),)),
        ({"renewal_due": True}, (Renew(),)),
        ({"newest_generation": 1}, (FetchDesired(),)),
        ({"newest_generation": 4, "desired": WAIT, "has_ticket": True}, (ForgetTicket(), FetchDesired())),
        ({"newest_generation": 2, "desired": WAIT, "done_generation": 3}, ()),
        ({"desired": WAIT}, (MarkDone(3),)),
        ({"desired": WAIT, "done_generation": 3}, ()),
        ({"desired": JOIN}, (Join(4, restart=False),)),
        ({"desired": JOIN, "gates": (GATE,)}, ()),
        ({"desired": JOIN, "k3s": K3sState.RUNNING}, (Join(4, restart=False),)),
        ({"desired": JOIN, "join": RECORD, "k3s": K3sState.STARTING}, ()),
        ({"desired": JOIN, "join": RECORD, "k3s": K3sState.INACTIVE}, ()),
        ({"desired": JOIN, "join": UNTOLD, "k3s": K3sState.INACTIVE}, (StartK3s(UNTOLD),)),
        ({"desired": JOIN, "join": UNTOLD, "k3s": K3sState.STARTING}, ()),
        ({"desired": JOIN, "join": UNTOLD, "k3s": K3sState.RUNNING}, (FinishJoin(UNTOLD), MarkDone(4))),
        ({"desired": JOIN, "join": AGAIN, "k3s": K3sState.STARTING}, (StartK3s(AGAIN),)),
        (
            {"desired": Desired(5, join=True), "join": UNTOLD, "k3s": K3sState.INACTIVE},
            (Join(5, restart=True),),
        ),
        ({"desired": JOIN, "join": RECORD, "k3s": K3sState.RUNNING}, (FinishJoin(RECORD), MarkDone(4))),
        ({"desired": JOIN, "join": CLEAN, "k3s": K3sState.RUNNING}, (MarkDone(4),)),
        ({"desired": JOIN, "join": CLEAN, "k3s": K3sState.RUNNING, "done_generation": 4}, ()),
        ({"desired": JOIN, "join": CLEAN, "k3s": K3sState.FAILED, "done_generation": 4}, ()),
        (
            {"desired": Desired(5, join=True), "join": RECORD, "k3s": K3sState.STARTING},
            (Join(5, restart=True),),
        ),
        (
            {"desired": Desired(5, join=True), "join": RECORD, "k3s": K3sState.FAILED, "gates": (GATE,)},
            (),
        ),
        (
            {"desired": Desired(5, join=True), "join": CLEAN, "k3s": K3sState.RUNNING, "done_generation": 4},
            (MarkDone(5),),
        ),
        (
            {"desired": SETTINGS, "join": CLEAN, "k3s": K3sState.RUNNING, "done_generation": 4},
            (Configure(KEEP, restart=False), MarkDone(5)),
        ),
        (
            {"desired": SETTINGS, "join": CLEAN, "k3s": K3sState.STARTING, "done_generation": 4},
            (Configure(KEEP, restart=True), MarkDone(5)),
        ),
        (
            {"desired": SETTINGS, "join": CLEAN, "k3s": K3sState.INACTIVE, "done_generation": 4},
            (Configure(KEEP, restart=False), MarkDone(5)),
        ),
        (
            {"desired": SETTINGS, "join": RECORD, "k3s": K3sState.RUNNING, "done_generation": 4},
            (FinishJoin(RECORD), Configure(KEEP, restart=False), MarkDone(5)),
        ),
        ({"desired": SETTINGS, "join": RECORD, "k3s": K3sState.STARTING, "done_generation": 3}, ()),
        ({"desired": SETTINGS, "join": CLEAN, "k3s": K3sState.RUNNING, "done_generation": 5}, ()),
        ({"desired": SETTINGS}, ()),
        ({"desired": SETTINGS, "reread_due": True}, (FetchDesired(again=True),)),
        ({"desired": SETTINGS, "k3s": K3sState.FAILED, "done_generation": 5}, ()),
        ({"desired": SETTINGS, "has_joined": True, "k3s": K3sState.RUNNING}, (Adopt(4, KEEP),)),
        ({"desired": SETTINGS, "has_joined": True, "k3s": K3sState.FAILED}, (Adopt(4, KEEP),)),
        ({"desired": SETTINGS, "has_joined": True, "gates": (GATE,)}, (Adopt(4, KEEP),)),
        ({"desired": SETTINGS, "k3s": K3sState.RUNNING}, (Adopt(4, KEEP),)),
        ({"desired": JOIN, "has_joined": True, "k3s": K3sState.RUNNING}, (Join(4, restart=False),)),
        (
            {"desired": SETTINGS, "has_joined": True, "join": CLEAN, "k3s": K3sState.RUNNING},
            (Configure(KEEP, restart=False), MarkDone(5)),
        ),
    ],
    ids=[
        "a-stranger-only-enrols",
        "nothing-to-do",
        "used-ticket",
        "old-certificate",
        "first-order",
        "newer-order-comes-first",
        "older-order",
        "order-to-wait",
        "waited",
        "join",
        "gate-holds-join",
        "power-cut-before-the-record",
        "joining",
        "stopped-by-a-person",
        "power-cut-before-the-start",
        "power-cut-behind-the-start",
        "power-cut-and-joined",
        "power-cut-before-the-restart",
        "newer-material-than-what-was-not-started",
        "joined",
        "cleaned",
        "done",
        "broken-later",
        "new-material-after-failure",
        "gate-holds-second-join",
        "running-node-is-not-joined-again",
        "settings-beside-a-running-k3s",
        "settings-for-one-that-does-not-come-up",
        "settings-for-one-that-a-person-stopped",
        "token-first-then-settings",
        "settings-wait-for-the-join",
        "settings-are-in-place",
        "membership-was-lost",
        "membership-was-lost-and-the-server-may-think-anew",
        "membership-was-lost-and-k3s-fails",
        "record-was-lost",
        "record-was-lost-and-k3s-fails",
        "record-was-lost-and-nothing-starts",
        "record-was-lost-and-the-certificate-of-a-k3s-that-runs",
        "joined-before-and-is-to-join",
        "record-is-there",
    ],
)
def test_actions(changes: dict[str, object], actions: tuple[object, ...]) -> None:
    assert plan(dataclasses.replace(MEMBER, **changes)) == actions  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ({"desired": SETTINGS}, True),
        ({"desired": SETTINGS, "k3s": K3sState.FAILED}, True),
        ({"desired": SETTINGS, "k3s": K3sState.RUNNING}, False),
        ({"desired": SETTINGS, "has_joined": True}, False),
        ({"desired": SETTINGS, "join": CLEAN}, False),
        ({"desired": SETTINGS, "enrolled": False}, False),
        ({"desired": JOIN}, False),
        ({"desired": dataclasses.replace(SETTINGS, join=False)}, False),
        ({}, False),
    ],
)
def test_membership_is_lost_where_the_server_has_it_and_the_disk_has_nothing(
    changes: dict[str, object], lost: bool
) -> None:
    assert lost_membership(dataclasses.replace(MEMBER, **changes)) is lost  # type: ignore[arg-type]


def test_stale_and_repeated_orders_are_not_kept() -> None:
    assert newer(None, WAIT) == WAIT
    assert newer(WAIT, JOIN) == JOIN
    assert newer(JOIN, WAIT) == JOIN
    assert newer(JOIN, dataclasses.replace(JOIN, join=False)) == JOIN
