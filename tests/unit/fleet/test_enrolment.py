"""The decision tables of enrolment, row by row and as properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.protocol import Outcome, ProofKind
from fleet.enrolment import (
    BARRED,
    AgentCase,
    InstallerCase,
    Recognition,
    TicketStanding,
    decide_agent,
    decide_installer,
)
from fleet.lifecycle import State
from fleet.spec.model import FirstBoot

STATES = st.none() | st.sampled_from(State)
INSTALLERS = st.builds(
    InstallerCase,
    recognition=st.sampled_from(Recognition),
    state=STATES,
    proof=st.sampled_from(ProofKind),
    intent_open=st.booleans(),
    policy=st.sampled_from(FirstBoot),
    approved=st.booleans(),
    occupied=st.booleans(),
)
AGENTS = st.builds(
    AgentCase,
    recognition=st.sampled_from(Recognition),
    state=STATES,
    proof=st.sampled_from(ProofKind),
    ticket=st.none() | st.sampled_from(TicketStanding),
    previous_valid=st.booleans(),
    approved=st.booleans(),
)


def installer(
    *,
    recognition: Recognition = Recognition.DECLARED,
    state: State = State.NETBOOTING,
    proof: ProofKind = ProofKind.NONE,
    intent_open: bool = True,
    policy: FirstBoot = FirstBoot.TRUST_LAN,
    approved: bool = False,
    occupied: bool = False,
) -> InstallerCase:
    return InstallerCase(
        recognition=recognition,
        state=state,
        proof=proof,
        intent_open=intent_open,
        policy=policy,
        approved=approved,
        occupied=occupied,
    )


def agent(
    proof: ProofKind,
    *,
    ticket: TicketStanding | None = None,
    state: State = State.FIRST_BOOT,
    previous_valid: bool = False,
    approved: bool = False,
) -> AgentCase:
    return AgentCase(
        recognition=Recognition.DECLARED,
        state=state,
        proof=proof,
        ticket=ticket,
        previous_valid=previous_valid,
        approved=approved,
    )


@pytest.mark.parametrize(
    ("case", "outcome", "reason"),
    [
        (installer(), Outcome.ADMITTED, "trust-lan"),
        (installer(policy=FirstBoot.APPROVE), Outcome.PENDING, "approval"),
        (installer(policy=FirstBoot.APPROVE, approved=True), Outcome.ADMITTED, "approved"),
        (installer(occupied=True), Outcome.PENDING, "not on record here"),
        (installer(occupied=True, approved=True), Outcome.ADMITTED, "approved"),
        (installer(intent_open=False), Outcome.PENDING, "rebinding"),
        (installer(intent_open=False, approved=True), Outcome.PENDING, "rebinding"),
        (installer(recognition=Recognition.UNKNOWN), Outcome.PENDING, "not in cluster.yaml"),
        (installer(recognition=Recognition.CONFLICTING), Outcome.PENDING, "do not belong to one node"),
        (installer(state=State.QUARANTINED), Outcome.REJECTED, "quarantined"),
        (installer(state=State.DECOMMISSIONED), Outcome.REJECTED, "decommissioned"),
        (installer(proof=ProofKind.TICKET), Outcome.REJECTED, "no 'ticket' proof"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_installer_row(case: InstallerCase, outcome: Outcome, reason: str) -> None:
    decision = decide_installer(case)
    assert decision.outcome is outcome
    assert reason in decision.reason


@pytest.mark.parametrize(
    ("case", "outcome", "burns", "alarm"),
    [
        (agent(ProofKind.TICKET, ticket=TicketStanding.VALID), Outcome.ENROLLED, True, False),
        (agent(ProofKind.TICKET, ticket=TicketStanding.USED_BY_CALLER), Outcome.ENROLLED, False, False),
        (agent(ProofKind.TICKET, ticket=TicketStanding.USED), Outcome.REJECTED, False, True),
        (agent(ProofKind.TICKET, ticket=TicketStanding.VOID), Outcome.REJECTED, False, False),
        (agent(ProofKind.TICKET, ticket=TicketStanding.WRONG), Outcome.REJECTED, False, True),
        (agent(ProofKind.TICKET), Outcome.REJECTED, False, True),
        (agent(ProofKind.PREVIOUS, previous_valid=True), Outcome.ENROLLED, False, False),
        (agent(ProofKind.PREVIOUS), Outcome.REJECTED, False, True),
        (agent(ProofKind.NONE), Outcome.PENDING, False, False),
        (agent(ProofKind.NONE, approved=True), Outcome.ENROLLED, False, False),
    ],
)
def test_agent_row(case: AgentCase, outcome: Outcome, burns: bool, alarm: bool) -> None:
    decision = decide_agent(case)
    assert (decision.outcome, decision.burns_ticket, decision.is_alarm) == (outcome, burns, alarm)


@given(case=INSTALLERS)
def test_no_installer_gets_in_without_an_open_intent_of_its_own_node(case: InstallerCase) -> None:
    if decide_installer(case).outcome is Outcome.ADMITTED:
        assert case.recognition is Recognition.DECLARED
        assert case.intent_open
        assert case.state not in BARRED
        assert case.approved or case.policy is FirstBoot.TRUST_LAN


@given(case=AGENTS)
def test_no_agent_gets_a_certificate_without_a_proof_or_a_person(case: AgentCase) -> None:
    decision = decide_agent(case)
    if decision.outcome is Outcome.ENROLLED:
        assert case.recognition is Recognition.DECLARED
        assert case.state not in BARRED
        by_ticket = case.proof is ProofKind.TICKET and case.ticket in (
            TicketStanding.VALID,
            TicketStanding.USED_BY_CALLER,
        )
        by_certificate = case.proof is ProofKind.PREVIOUS and case.previous_valid
        assert by_ticket or by_certificate or (case.proof is ProofKind.NONE and case.approved)
    assert not decision.burns_ticket or case.ticket is TicketStanding.VALID


@given(installer_case=INSTALLERS, agent_case=AGENTS)
def test_installers_and_agents_get_answers_of_their_own_kind(
    installer_case: InstallerCase, agent_case: AgentCase
) -> None:
    assert decide_installer(installer_case).outcome is not Outcome.ENROLLED
    assert decide_agent(agent_case).outcome is not Outcome.ADMITTED
