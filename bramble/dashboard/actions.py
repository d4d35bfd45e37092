"""What a person can have done from the dashboard: the same desks as the command line's, with the same record.

An action is offered where its desk would do it, and refused by the desk where that has changed meanwhile.
What takes something from a node that it does not get back by itself asks for the node's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from fleet.controller import Controller
from fleet.lifecycle import State
from fleet.views import NodeView

Form = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Who wants what of which node."""

    controller: Controller
    name: str
    form: Form
    who: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing that can be done to a node.

    Attributes:
        name: In addresses and in the page.
        operation: The id of the same operation in the API, for the audit.
        question: What the page says before it is done.
        types_name: The person has to type the node's name.
        is_offered: Whether it can be done to a node as it is now.
        perform: Does it; what was done, for people. Raises RefusedError.
        is_quiet: Of those that are seldom wanted, at the end of the page.
        fields: Of its form, for the audit, beside the key.
        notes: More to say before it is done, one line each: what would follow, and what is in the way.
    """

    name: str
    operation: str
    label: str
    question: str
    is_offered: Callable[[Controller, NodeView], bool]
    perform: Callable[[Call], str]
    types_name: bool = False
    is_quiet: bool = False
    fields: tuple[str, ...] = ()
    notes: Callable[[Controller, str], tuple[str, ...]] = lambda _controller, _name: ()


def _waits_with_key(_controller: Controller, node: NodeView) -> bool:
    return node.fingerprint is not None


def _can_be_released(_controller: Controller, node: NodeView) -> bool:
    return node.fingerprint is None and node.state == State.QUARANTINED.value


def _is_revoked(controller: Controller, node: NodeView) -> bool:
    with controller.store.read() as reader:
        return reader.is_refused(node.name)


def _is_member(controller: Controller, node: NodeView) -> bool:
    return node.state != State.DECOMMISSIONED.value and not _is_revoked(controller, node)


def _approve(call: Call) -> str:
    return call.controller.people.approve(call.name, call.form.get("key", ""))


def _release(call: Call) -> str:
    return call.controller.people.approve(call.name, None)


def _reject(call: Call) -> str:
    return call.controller.people.reject(call.name, call.form.get("key", ""))


ACTIONS: Final[tuple[Action, ...]] = (
    Action(
        name="approve",
        operation="approve",
        label="Approve",
        question="Compare the fingerprint with the board's own screen before you let it in.",
        is_offered=_waits_with_key,
        perform=_approve,
    ),
    Action(
        name="reject",
        operation="reject",
        label="Reject",
        question="No screen of yours shows this fingerprint: what holds the key is turned away.",
        is_offered=_waits_with_key,
        perform=_reject,
    ),
    Action(
        name="release",
        operation="approve",
        label="Let it try again",
        question="It gets three more boots of the installer.",
        is_offered=_can_be_released,
        perform=_release,
    ),
    Action(
        name="lift",
        operation="approve",
        label="Lift the revocation",
        question="Its agent may ask again; the key that it shows then waits for your approval.",
        is_offered=_is_revoked,
        perform=_release,
    ),
    Action(
        name="revoke",
        operation="revoke",
        label="Revoke…",
        question="Its certificate, tickets and open permissions are void at once. For a board or a disk that "
        "was stolen. What k3s gave the node is ended with 'kubectl delete node'.",
        is_offered=_is_member,
        perform=lambda call: call.controller.people.revoke(call.name),
        types_name=True,
        is_quiet=True,
    ),
    Action(
        name="forget-device",
        operation="forgetDevice",
        label="Forget its board…",
        question="The device key of its board and the board itself are forgotten: the next board that comes "
        "for this node may be another one, and has to be approved.",
        is_offered=lambda _controller, node: node.state != State.DECOMMISSIONED.value,
        perform=lambda call: call.controller.people.forget_device(call.name),
        types_name=True,
        is_quiet=True,
    ),
)


def find_action(name: str) -> Action | None:
    """The action of that name."""
    return next((action for action in ACTIONS if action.name == name), None)


def offered(controller: Controller, node: NodeView) -> list[Action]:
    """What can be done to a node as it is now."""
    return [action for action in ACTIONS if action.is_offered(controller, node)]
