"""May this caller in? Two pure decision tables: one for installers, one for agents.

Every fact is established by the caller of these functions (`fleet.admission`); here they are only weighed. A
row that gives nothing away is PENDING (a person can answer) rather than REJECTED, unless somebody shows a
proof that is false.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from agent.protocol import Outcome, ProofKind
from fleet.lifecycle import State
from fleet.spec.model import FirstBoot

WAITS: Final = "waits for approval"
"""How the reasons begin that an approval takes away."""
BARRED: Final = frozenset({State.QUARANTINED, State.DECOMMISSIONED})


class Recognition(StrEnum):
    """What cluster.yaml says of the board that speaks."""

    DECLARED = "declared"
    UNKNOWN = "unknown"
    CONFLICTING = "conflicting"
    """Its serial belongs to one node and its MAC to another, or one of the two contradicts the file."""


class TicketStanding(StrEnum):
    """What the server knows of the ticket behind a proof."""

    VALID = "valid"
    USED_BY_CALLER = "used-by-caller"
    """Burnt by the same key: the answer got lost on the way, and the caller asks again."""
    USED = "used"
    VOID = "void"
    """Of an attempt that a later one replaced."""
    WRONG = "wrong"
    """The proof matches no ticket of this node."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, its reason for people, and what must happen with it.

    Attributes:
        burns_ticket: The ticket that was shown is used up by this answer.
        is_alarm: Somebody showed a false proof; the timeline says so loudly.
    """

    outcome: Outcome
    reason: str
    burns_ticket: bool = False
    is_alarm: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallerCase:
    """The facts about an installer that asks to install.

    Attributes:
        state: The node's state; None for a board that is no node.
        intent_open: The node has an open intent, and it is the one that the installer was booted for.
        approved: A person approved exactly this installer's session key.
        occupied: In this power-on its disk was found to hold an installation that the store does not know of.
    """

    recognition: Recognition
    state: State | None
    proof: ProofKind
    intent_open: bool
    policy: FirstBoot
    approved: bool
    occupied: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentCase:
    """The facts about an agent that asks for a certificate.

    Attributes:
        ticket: Standing of the ticket behind the proof; None where the proof is no ticket.
        previous_valid: The connection presents this node's present certificate, or the one before it as long
            as the present one was never used.
        approved: A person approved exactly this agent's public key.
    """

    recognition: Recognition
    state: State | None
    proof: ProofKind
    ticket: TicketStanding | None
    previous_valid: bool
    approved: bool


def _stranger(recognition: Recognition) -> Decision:
    if recognition is Recognition.CONFLICTING:
        return Decision(Outcome.PENDING, "its serial and its MAC do not belong to one node of cluster.yaml")
    return Decision(Outcome.PENDING, "this board is not in cluster.yaml")


def _barred(state: State) -> Decision:
    return Decision(Outcome.REJECTED, f"the node is {state}")


def decide_installer(case: InstallerCase) -> Decision:
    """Whether an installer may install, must wait for a person, or is turned away."""
    if case.recognition is not Recognition.DECLARED or case.state is None:
        return _stranger(case.recognition)
    if case.state in BARRED:
        return _barred(case.state)
    if case.proof is not ProofKind.NONE:
        return Decision(Outcome.REJECTED, f"an installer has no '{case.proof.value}' proof", is_alarm=True)
    if not case.intent_open:
        return Decision(Outcome.PENDING, "rebinding: no installation of this node is open")
    if case.approved:
        return Decision(Outcome.ADMITTED, "approved by a person")
    if case.occupied:
        return Decision(
            Outcome.PENDING, f"{WAITS}: its disk holds an installation that is not on record here"
        )
    if case.policy is FirstBoot.APPROVE:
        return Decision(Outcome.PENDING, WAITS)
    return Decision(Outcome.ADMITTED, "declared in cluster.yaml (policy trust-lan)")


def decide_agent(case: AgentCase) -> Decision:
    """Whether an agent gets a certificate."""
    if case.recognition is not Recognition.DECLARED or case.state is None:
        return _stranger(case.recognition)
    if case.state in BARRED:
        return _barred(case.state)
    if case.proof is ProofKind.TICKET:
        return _decide_ticket(case.ticket)
    if case.proof is ProofKind.PREVIOUS:
        if case.previous_valid:
            return Decision(Outcome.ENROLLED, "renewed with its valid certificate")
        return Decision(
            Outcome.REJECTED, "the certificate shown is not this node's present one", is_alarm=True
        )
    if case.approved:
        return Decision(Outcome.ENROLLED, "approved by a person")
    return Decision(Outcome.PENDING, "rebinding: an agent without ticket or certificate")


def _decide_ticket(standing: TicketStanding | None) -> Decision:
    match standing:
        case TicketStanding.VALID:
            return Decision(Outcome.ENROLLED, "showed its ticket", burns_ticket=True)
        case TicketStanding.USED_BY_CALLER:
            return Decision(Outcome.ENROLLED, "asked again with the key that used the ticket")
        case TicketStanding.USED:
            return Decision(Outcome.REJECTED, "the ticket was used before, by another key", is_alarm=True)
        case TicketStanding.VOID:
            return Decision(Outcome.REJECTED, "the ticket is of an installation that a later one replaced")
        case TicketStanding.WRONG | None:
            return Decision(Outcome.REJECTED, "the proof matches no ticket of this node", is_alarm=True)
