"""May this caller in? Two pure decision tables: one for installers, one for agents.

Every fact is established by the caller of these functions (`fleet.admission`); here they are only weighed.
The rows are tried from the top. A row that gives nothing away is PENDING (a person can answer) rather than
REJECTED, unless somebody shows a proof that is false, or withholds one that the board is known to have.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from agent.protocol import Outcome, ProofKind
from fleet.lifecycle import State
from fleet.spec.model import FirstBoot, Role

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
    """Burnt by another key, or taken back: by a revocation, or because two boards claimed the node."""
    VOID = "void"
    """Of an attempt that a later one replaced."""
    WRONG = "wrong"
    """The proof matches no ticket of this node."""


class DeviceStanding(StrEnum):
    """What the server knows of the board's device key, which its firmware holds in OTP memory."""

    NONE = "none"
    """None is on record, and none was shown."""
    NEW = "new"
    """The caller proved to hold one, and none is on record."""
    PROVEN = "proven"
    """The caller proved to hold the one on record."""
    MISSING = "missing"
    """One is on record and none was shown: somebody would like this board to count for less than it is."""
    FALSE = "false"
    """The signature is wrong, or by another key than the one on record."""


DOWNGRADES: Final = frozenset({DeviceStanding.MISSING, DeviceStanding.FALSE})


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, its reason for people, and what must happen with it.

    Attributes:
        burns_ticket: The ticket that was shown is used up by this answer.
        is_alarm: Somebody showed a false proof, or two boards claim one place; the timeline says so loudly.
        pins_device: A person vouched for this board: the device key that it showed is its own from now on.
        suspends: Two boards hold the certificate in force, so neither may use it any longer.
    """

    outcome: Outcome
    reason: str
    burns_ticket: bool = False
    is_alarm: bool = False
    pins_device: bool = False
    suspends: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallerCase:
    """The facts about an installer that asks to install.

    Attributes:
        state: The node's state; None for a board that is no node.
        intent_open: The node has an open intent, and it is the one that the installer was booted for.
        approved: A person approved exactly this installer's session key.
        occupied: In this power-on its disk was found to hold an installation that the store does not know of.
        contested: Another board claims to be this node, under the same intent.
        enrolled: A certificate of this node is in force.
        refused: A person rejected exactly this key.
        revoked: A person revoked the node.
    """

    recognition: Recognition
    state: State | None
    proof: ProofKind
    device: DeviceStanding
    intent_open: bool
    role: Role
    policy: FirstBoot
    approved: bool
    occupied: bool
    contested: bool
    enrolled: bool
    refused: bool
    revoked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentCase:
    """The facts about an agent that asks for a certificate.

    Attributes:
        ticket: Standing of the ticket behind the proof; None where the proof is no ticket.
        previous_valid: The connection presents this node's present certificate, or the one before it as long
            as the present one was never used.
        other_board: The caller is not the board that this node was installed on, or last enrolled on.
        approved: A person approved exactly this agent's public key.
        vouched: A person approved the installation that this agent comes from.
        enrolled: A certificate of this node is in force.
        refused: A person rejected exactly this key.
        revoked: A person revoked the node.
    """

    recognition: Recognition
    state: State | None
    proof: ProofKind
    device: DeviceStanding
    ticket: TicketStanding | None
    previous_valid: bool
    other_board: bool
    approved: bool
    vouched: bool
    enrolled: bool
    refused: bool
    revoked: bool


def decide_installer(case: InstallerCase) -> Decision:
    """Whether an installer may install, must wait for a person, or is turned away."""
    barred = _barred(case)
    if barred is not None:
        return barred
    if case.proof is not ProofKind.NONE:
        return Decision(Outcome.REJECTED, f"an installer has no '{case.proof.value}' proof", is_alarm=True)
    if not case.intent_open:
        return _rebinding("no installation of this node is open", case)
    if case.approved:
        pins = case.device is DeviceStanding.NEW
        return Decision(Outcome.ADMITTED, "approved by a person", pins_device=pins)
    if case.contested:
        return Decision(
            Outcome.PENDING, f"{WAITS}: two boards claim to be this node, under one intent", is_alarm=True
        )
    if case.occupied:
        return Decision(
            Outcome.PENDING, f"{WAITS}: its disk holds an installation that is not on record here"
        )
    if case.device is DeviceStanding.PROVEN:
        return Decision(Outcome.ADMITTED, "proved its device key")
    if case.role is Role.SERVER:
        # Whatever the policy says: a server's join token administers the whole cluster, and all that this
        # caller showed is a serial and a MAC address, which anybody on the network can show.
        return Decision(Outcome.PENDING, WAITS)
    if case.policy is FirstBoot.APPROVE:
        return Decision(Outcome.PENDING, WAITS)
    return Decision(Outcome.ADMITTED, "declared in cluster.yaml (policy trust-lan)")


def decide_agent(case: AgentCase) -> Decision:
    """Whether an agent gets a certificate."""
    barred = _barred(case)
    if barred is not None:
        return barred
    proven = case.device is DeviceStanding.PROVEN
    if case.other_board and not (case.approved or proven):
        holds_it = case.proof is ProofKind.PREVIOUS and case.previous_valid
        return Decision(
            Outcome.PENDING,
            "conflict: it speaks from another board than the one that is this node",
            is_alarm=True,
            suspends=holds_it,
        )
    pins = case.device is DeviceStanding.NEW and (case.approved or case.vouched)
    if case.proof is ProofKind.TICKET:
        by_ticket = _decide_ticket(case.ticket, pins=pins)
        if by_ticket is not None:
            return by_ticket
    if case.proof is ProofKind.PREVIOUS:
        if case.previous_valid:
            return Decision(Outcome.ENROLLED, "renewed with its valid certificate", pins_device=pins)
        return Decision(
            Outcome.REJECTED, "the certificate shown is not this node's present one", is_alarm=True
        )
    if case.approved:
        return Decision(Outcome.ENROLLED, "approved by a person", pins_device=pins)
    if proven:
        return Decision(Outcome.ENROLLED, "proved its device key")
    if case.proof is ProofKind.TICKET:
        return Decision(
            Outcome.PENDING,
            f"{WAITS}: its ticket was used before, by another key, or taken back",
            is_alarm=True,
        )
    return _rebinding("an agent without ticket or certificate", case)


def _rebinding(what: str, case: InstallerCase | AgentCase) -> Decision:
    """Somebody without a proof would like to be a node that is somebody else by now, as far as is known."""
    if case.enrolled:
        return Decision(Outcome.PENDING, f"rebinding: {what}, and the node is enrolled", is_alarm=True)
    return Decision(Outcome.PENDING, f"rebinding: {what}")


def _barred(case: InstallerCase | AgentCase) -> Decision | None:
    """The rows that both tables begin with; None where none of them is the case's."""
    if case.recognition is Recognition.CONFLICTING:
        return Decision(
            Outcome.PENDING, "its serial and its MAC do not belong to one node of cluster.yaml", is_alarm=True
        )
    if case.recognition is not Recognition.DECLARED or case.state is None:
        return Decision(Outcome.PENDING, "this board is not in cluster.yaml")
    if case.state in BARRED:
        return Decision(Outcome.REJECTED, f"the node is {case.state}")
    if case.revoked:
        return Decision(Outcome.REJECTED, "a person revoked this node")
    if case.refused:
        return Decision(Outcome.REJECTED, "a person rejected this key")
    if case.device is DeviceStanding.MISSING:
        return Decision(
            Outcome.REJECTED, "this board has a device key on record and did not prove it", is_alarm=True
        )
    if case.device is DeviceStanding.FALSE:
        return Decision(
            Outcome.REJECTED,
            "the device key it showed is not the one on record, or not its own",
            is_alarm=True,
        )
    return None


def _decide_ticket(standing: TicketStanding | None, *, pins: bool) -> Decision | None:
    """What a ticket is worth; None: nothing, so its caller is answered like one that shows nothing.

    That is a used one, or one that was taken back. Who shows it may have stolen it, or be the node itself,
    whose key was damaged before it could remove the ticket, or which was revoked and is no longer: turned
    away, that one would come back for ever with nothing that a person could do.
    """
    match standing:
        case TicketStanding.VALID:
            return Decision(Outcome.ENROLLED, "showed its ticket", burns_ticket=True, pins_device=pins)
        case TicketStanding.USED_BY_CALLER:
            reason = "asked again with the key that used the ticket"
            return Decision(Outcome.ENROLLED, reason, pins_device=pins)
        case TicketStanding.USED:
            return None
        case TicketStanding.VOID:
            return Decision(Outcome.REJECTED, "the ticket is of an installation that a later one replaced")
        case TicketStanding.WRONG | None:
            return Decision(Outcome.REJECTED, "the proof matches no ticket of this node", is_alarm=True)
