"""The decision tables of enrolment: every combination of facts, against the table as documentation has it."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.protocol import Outcome, ProofKind
from fleet.enrolment import (
    BARRED,
    DOWNGRADES,
    AgentCase,
    Decision,
    DeviceStanding,
    InstallerCase,
    Recognition,
    TicketStanding,
    decide_agent,
    decide_installer,
)
from fleet.lifecycle import State
from fleet.spec.model import FirstBoot, Role

STATES = (None, *State)
KINDS_OF_STATES = (None, *sorted(BARRED), State.NETBOOTING, State.READY)
"""Enough for the enumeration: a test of its own shows that all other states are answered alike."""
BOTH = (False, True)


class Row(StrEnum):
    """What a row of the documented table answers."""

    ADMIT = "admit"
    ENROL = "enrol"
    BURN = "enrol, ticket burnt"
    PEND = "pending"
    PEND_ALARM = "pending, alarm"
    SUSPEND = "pending, alarm, certificate suspended"
    REJECT = "reject"
    REJECT_ALARM = "reject, alarm"


def row_of(decision: Decision) -> Row:
    match decision.outcome:
        case Outcome.ADMITTED:
            assert not decision.is_alarm
            return Row.ADMIT
        case Outcome.ENROLLED:
            assert not decision.is_alarm
            return Row.BURN if decision.burns_ticket else Row.ENROL
        case Outcome.PENDING:
            if decision.suspends:
                assert decision.is_alarm
                return Row.SUSPEND
            return Row.PEND_ALARM if decision.is_alarm else Row.PEND
        case Outcome.REJECTED:
            return Row.REJECT_ALARM if decision.is_alarm else Row.REJECT


def installer_cases() -> Iterator[InstallerCase]:
    names = [field.name for field in dataclasses.fields(InstallerCase)]
    values: tuple[Iterable[Any], ...] = (
        Recognition,
        KINDS_OF_STATES,
        ProofKind,
        DeviceStanding,
        BOTH,
        Role,
        FirstBoot,
        *(BOTH,) * 6,
    )
    for combination in itertools.product(*values):
        yield InstallerCase(**dict(zip(names, combination, strict=True)))


def agent_cases() -> Iterator[AgentCase]:
    names = [field.name for field in dataclasses.fields(AgentCase)]
    tickets = (None, *TicketStanding)
    values: tuple[Iterable[Any], ...] = (
        Recognition,
        KINDS_OF_STATES,
        ProofKind,
        DeviceStanding,
        tickets,
        *(BOTH,) * 7,
    )
    for combination in itertools.product(*values):
        yield AgentCase(**dict(zip(names, combination, strict=True)))


# The tables of docs/security.md, in its words and its order; the first row that applies, decides.
BEGINNING: list[tuple[str, Callable[[InstallerCase | AgentCase], bool], Row]] = [
    ("contradicts the file", lambda c: c.recognition is Recognition.CONFLICTING, Row.PEND_ALARM),
    ("not in the file", lambda c: c.recognition is Recognition.UNKNOWN or c.state is None, Row.PEND),
    ("quarantined or decommissioned", lambda c: c.state in BARRED, Row.REJECT),
    ("revoked", lambda c: c.revoked, Row.REJECT),
    ("key rejected", lambda c: c.refused, Row.REJECT),
    ("device key withheld", lambda c: c.device is DeviceStanding.MISSING, Row.REJECT_ALARM),
    ("device key false", lambda c: c.device is DeviceStanding.FALSE, Row.REJECT_ALARM),
]
INSTALLER_TABLE: list[tuple[str, Callable[[InstallerCase], bool], Row]] = [
    *BEGINNING,
    ("proof of another kind", lambda c: c.proof is not ProofKind.NONE, Row.REJECT_ALARM),
    ("no intent, but enrolled", lambda c: not c.intent_open and c.enrolled, Row.PEND_ALARM),
    ("no intent", lambda c: not c.intent_open, Row.PEND),
    ("key approved", lambda c: c.approved, Row.ADMIT),
    ("two boards", lambda c: c.contested, Row.PEND_ALARM),
    ("disk occupied", lambda c: c.occupied, Row.PEND),
    ("device key", lambda c: c.device is DeviceStanding.PROVEN, Row.ADMIT),
    ("server", lambda c: c.role is Role.SERVER, Row.PEND),
    ("agent, policy approve", lambda c: c.policy is FirstBoot.APPROVE, Row.PEND),
    ("agent, policy trust-lan", lambda c: c.policy is FirstBoot.TRUST_LAN, Row.ADMIT),
]


def is_doubtful(case: AgentCase) -> bool:
    return case.other_board and not case.approved and case.device is not DeviceStanding.PROVEN


def shows(standing: TicketStanding) -> Callable[[AgentCase], bool]:
    return lambda case: case.proof is ProofKind.TICKET and case.ticket is standing


is_spent = shows(TicketStanding.USED)


def renews(case: AgentCase) -> bool:
    return case.proof is ProofKind.PREVIOUS and case.previous_valid


AGENT_TABLE: list[tuple[str, Callable[[AgentCase], bool], Row]] = [
    *BEGINNING,
    ("cloned certificate", lambda c: is_doubtful(c) and renews(c), Row.SUSPEND),
    ("another board", is_doubtful, Row.PEND_ALARM),
    ("ticket", shows(TicketStanding.VALID), Row.BURN),
    ("ticket, again", shows(TicketStanding.USED_BY_CALLER), Row.ENROL),
    ("ticket of an older attempt", shows(TicketStanding.VOID), Row.REJECT),
    ("false ticket", lambda c: c.proof is ProofKind.TICKET and not is_spent(c), Row.REJECT_ALARM),
    ("certificate", renews, Row.ENROL),
    ("certificate not in force", lambda c: c.proof is ProofKind.PREVIOUS, Row.REJECT_ALARM),
    ("key approved", lambda c: c.approved, Row.ENROL),
    ("device key", lambda c: c.device is DeviceStanding.PROVEN, Row.ENROL),
    ("ticket used by another key", shows(TicketStanding.USED), Row.PEND_ALARM),
    ("nothing shown, but enrolled", lambda c: c.proof is ProofKind.NONE and c.enrolled, Row.PEND_ALARM),
    ("nothing shown", lambda c: c.proof is ProofKind.NONE, Row.PEND),
]


def test_every_installer_is_answered_as_the_table_says_and_every_row_is_reached() -> None:
    reached = Counter[str]()
    for case in installer_cases():
        name, _applies, expected = next(row for row in INSTALLER_TABLE if row[1](case))
        assert row_of(decide_installer(case)) is expected, (name, case)
        reached[name] += 1
    assert set(reached) == {name for name, _applies, _row in INSTALLER_TABLE}


def test_every_agent_is_answered_as_the_table_says_and_every_row_is_reached() -> None:
    reached = Counter[str]()
    for case in agent_cases():
        name, _applies, expected = next(row for row in AGENT_TABLE if row[1](case))
        assert row_of(decide_agent(case)) is expected, (name, case)
        reached[name] += 1
    assert set(reached) == {name for name, _applies, _row in AGENT_TABLE}


INSTALLERS = st.builds(
    InstallerCase,
    recognition=st.sampled_from(Recognition),
    state=st.sampled_from(STATES),
    proof=st.sampled_from(ProofKind),
    device=st.sampled_from(DeviceStanding),
    intent_open=st.booleans(),
    role=st.sampled_from(Role),
    policy=st.sampled_from(FirstBoot),
    approved=st.booleans(),
    occupied=st.booleans(),
    contested=st.booleans(),
    enrolled=st.booleans(),
    refused=st.booleans(),
    revoked=st.booleans(),
)
AGENTS = st.builds(
    AgentCase,
    recognition=st.sampled_from(Recognition),
    state=st.sampled_from(STATES),
    proof=st.sampled_from(ProofKind),
    device=st.sampled_from(DeviceStanding),
    ticket=st.none() | st.sampled_from(TicketStanding),
    previous_valid=st.booleans(),
    other_board=st.booleans(),
    approved=st.booleans(),
    vouched=st.booleans(),
    enrolled=st.booleans(),
    refused=st.booleans(),
    revoked=st.booleans(),
)
CASES = INSTALLERS | AGENTS


def decide(case: InstallerCase | AgentCase) -> Decision:
    return decide_installer(case) if isinstance(case, InstallerCase) else decide_agent(case)


@given(case=CASES)
def test_states_that_bar_nobody_are_answered_alike(case: InstallerCase | AgentCase) -> None:
    answers = {decide(dataclasses.replace(case, state=state)) for state in set(State) - BARRED}
    assert len(answers) == 1


@given(case=INSTALLERS)
def test_no_server_is_admitted_on_its_serial_and_mac_alone(case: InstallerCase) -> None:
    decision = decide_installer(dataclasses.replace(case, role=Role.SERVER))
    if decision.outcome is Outcome.ADMITTED:
        assert case.approved or case.device is DeviceStanding.PROVEN


@given(case=INSTALLERS)
def test_no_installer_gets_in_without_an_open_intent_of_its_own_node(case: InstallerCase) -> None:
    if decide_installer(case).outcome is Outcome.ADMITTED:
        assert case.recognition is Recognition.DECLARED
        assert case.intent_open
        assert not case.contested or case.approved
        assert not case.occupied or case.approved


@given(case=AGENTS)
def test_no_agent_gets_a_certificate_without_a_proof_or_a_person(case: AgentCase) -> None:
    decision = decide_agent(case)
    if decision.outcome is Outcome.ENROLLED:
        by_ticket = case.ticket in (TicketStanding.VALID, TicketStanding.USED_BY_CALLER)
        assert case.recognition is Recognition.DECLARED
        assert (
            (case.proof is ProofKind.TICKET and by_ticket)
            or (case.proof is ProofKind.PREVIOUS and case.previous_valid)
            or (
                (case.proof is ProofKind.NONE or is_spent(case))
                and (case.approved or case.device is DeviceStanding.PROVEN)
            )
        )


@given(case=AGENTS)
def test_a_used_ticket_gets_what_showing_nothing_gets_and_is_told_of(case: AgentCase) -> None:
    shown = decide_agent(dataclasses.replace(case, proof=ProofKind.TICKET, ticket=TicketStanding.USED))
    nothing = decide_agent(dataclasses.replace(case, proof=ProofKind.NONE, ticket=None))
    assert shown.outcome is nothing.outcome
    assert (shown.burns_ticket, shown.pins_device) == (False, nothing.pins_device)
    assert shown.is_alarm or not nothing.is_alarm


@given(case=CASES, state=st.sampled_from(sorted(BARRED)))
def test_quarantined_and_decommissioned_nodes_are_never_let_in(
    case: InstallerCase | AgentCase, state: State
) -> None:
    barred = dataclasses.replace(case, state=state, recognition=Recognition.DECLARED)
    assert decide(barred).outcome is Outcome.REJECTED


@given(case=CASES)
def test_what_a_person_revoked_or_rejected_is_never_let_in(case: InstallerCase | AgentCase) -> None:
    for refused, revoked in ((True, False), (False, True), (True, True)):
        decision = decide(dataclasses.replace(case, refused=refused, revoked=revoked))
        assert decision.outcome in (Outcome.PENDING, Outcome.REJECTED)


@given(case=CASES, device=st.sampled_from(sorted(DOWNGRADES)))
def test_a_board_that_withholds_its_device_key_is_an_alarm_whatever_else_it_shows(
    case: InstallerCase | AgentCase, device: DeviceStanding
) -> None:
    declared = dataclasses.replace(
        case,
        recognition=Recognition.DECLARED,
        state=State.READY,
        device=device,
        refused=False,
        revoked=False,
    )
    decision = decide(declared)
    assert (decision.outcome, decision.is_alarm) == (Outcome.REJECTED, True)


@given(case=AGENTS)
def test_only_a_valid_ticket_is_burnt_and_only_by_an_enrolment(case: AgentCase) -> None:
    decision = decide_agent(case)
    if decision.burns_ticket:
        assert decision.outcome is Outcome.ENROLLED
        assert (case.proof, case.ticket) == (ProofKind.TICKET, TicketStanding.VALID)


@given(case=CASES)
def test_a_device_key_is_pinned_only_where_a_person_vouched_for_a_board_that_was_let_in(
    case: InstallerCase | AgentCase,
) -> None:
    decision = decide(case)
    if decision.pins_device:
        assert decision.outcome in (Outcome.ADMITTED, Outcome.ENROLLED)
        assert case.device is DeviceStanding.NEW
        assert case.approved or (isinstance(case, AgentCase) and case.vouched)


@given(case=AGENTS)
def test_a_certificate_is_suspended_only_when_a_second_board_showed_that_it_holds_it(case: AgentCase) -> None:
    if decide_agent(case).suspends:
        assert case.other_board
        assert case.proof is ProofKind.PREVIOUS
        assert case.previous_valid


@given(installer_case=INSTALLERS, agent_case=AGENTS)
def test_installers_and_agents_get_answers_of_their_own_kind(
    installer_case: InstallerCase, agent_case: AgentCase
) -> None:
    assert decide_installer(installer_case).outcome is not Outcome.ENROLLED
    assert decide_agent(agent_case).outcome is not Outcome.ADMITTED
