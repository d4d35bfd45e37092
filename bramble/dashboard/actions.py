"""What a person can have done from the dashboard: the same desks as the command line's, with the same record.

An action is offered where its desk would do it, and refused by the desk where that has changed meanwhile.
What destroys something, or takes something that is not got back by itself, asks for the node's name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from bramble.dashboard.choices import Choice, images_for, require_choice
from bramble.dashboard.question import Blank, Plan, Question
from bramble.dashboard.takedowns import DECOMMISSION, GO_ON, REIMAGE, REPLACE
from bramble.dashboard.takedowns import order as order_takedown
from bramble.dashboard.takedowns import plan as plan_takedown
from bramble.kept_images import KeptImage
from fleet.controller import Controller
from fleet.lifecycle import State
from fleet.lock import read_holds
from fleet.power.cycle import PowerAction
from fleet.printable import printable
from fleet.refusal import RefusedError
from fleet.reimage.desk import open_order
from fleet.reimage.kinds import ReimageKind
from fleet.reimage.progress import can_be_called_off, is_cancelled
from fleet.spec.power import ManualPower
from fleet.views import NodeView

MAX_REASON: Final = 200
Form = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Who wants what of which node. `images` are those that there are, `node` as it is now."""

    controller: Controller
    images: Sequence[KeptImage]
    node: NodeView
    form: Form
    who: str

    @property
    def name(self) -> str:
        return self.node.name


@dataclass(frozen=True, slots=True)
class Field:
    """Something to say with it.

    Attributes:
        is_check: A box to tick, whose value is "yes".
        choices: What there is to choose from, the first unless another is chosen.
    """

    name: str
    label: str
    is_check: bool = False
    is_required: bool = False
    choices: Callable[[Call], Sequence[Choice]] | None = None

    def blank(self, call: Call) -> Blank:
        """As it is shown."""
        return Blank(
            name=self.name,
            label=self.label,
            is_check=self.is_check,
            is_required=self.is_required,
            choices=self.choices(call) if self.choices is not None else (),
        )


async def _no_plan(_call: Call) -> Plan:
    return Plan()


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing that can be done to a node.

    Attributes:
        name: In addresses and in the page.
        operation: The id of the same operation in the API, for the audit.
        question: What the page says before it is done.
        is_offered: Whether it can be done to a node as it is now.
        perform: Does it; what was done, for people. Raises RefusedError.
        plan: What would follow. Changes nothing.
        types_name: The person has to type the node's name.
        asks: It is asked once more on a page of its own.
        is_quiet: Of those that are seldom wanted, at the end of the page.
        sentence: The same with `{name}`, where the label and the name do not make one.
    """

    name: str
    operation: str
    label: str
    question: str
    is_offered: Callable[[Controller, NodeView], bool]
    perform: Callable[[Call], Awaitable[str]]
    plan: Callable[[Call], Awaitable[Plan]] = _no_plan
    fields: tuple[Field, ...] = ()
    types_name: bool = False
    asks: bool = False
    is_quiet: bool = False
    sentence: str = ""

    @property
    def has_page(self) -> bool:
        return self.asks or self.types_name

    @property
    def verb(self) -> str:
        """The label without the dots that promise a question."""
        return self.label.removesuffix("…")

    def title(self, name: str) -> str:
        """The verb and the node."""
        return self.sentence.format(name=name) or f"{self.verb} {name}"

    def require_choices(self, call: Call) -> None:
        """Take nothing that its page did not offer.

        Raises:
            RefusedError: The form says something else.
        """
        for field in self.fields:
            if field.choices is not None:
                require_choice(call.form, field.name, field.choices(call))

    async def ask(self, call: Call) -> Question:
        """What is asked before it is done."""
        here = f"/nodes/{quote(call.name)}"
        return Question(
            verb=self.title(call.name),
            text=self.question,
            post=f"{here}/do/{self.name}",
            back=here,
            back_title=call.name,
            plan=await self.plan(call),
            blanks=[field.blank(call) for field in self.fields],
            typed=call.name if self.types_name else "",
        )


# Approving


def _waits_with_key(_controller: Controller, node: NodeView) -> bool:
    return node.fingerprint is not None


def _can_be_released(_controller: Controller, node: NodeView) -> bool:
    return node.fingerprint is None and node.state == State.QUARANTINED.value


def _is_revoked(controller: Controller, node: NodeView) -> bool:
    with controller.store.read() as reader:
        return reader.is_refused(node.name)


def _is_member(controller: Controller, node: NodeView) -> bool:
    return node.state != State.DECOMMISSIONED.value and not _is_revoked(controller, node)


async def _approve(call: Call) -> str:
    return call.controller.people.approve(call.name, call.form.get("key", ""))


async def _release(call: Call) -> str:
    # "": no key was shown on that page, so none that came meanwhile is let in.
    return call.controller.people.approve(call.name, "")


async def _reject(call: Call) -> str:
    return call.controller.people.reject(call.name, call.form.get("key", ""))


async def _revoke(call: Call) -> str:
    return call.controller.people.revoke(call.name)


async def _forget_device(call: Call) -> str:
    return call.controller.people.forget_device(call.name)


# Power


def _has_switch(controller: Controller, node: NodeView) -> bool:
    spec = controller.spec.find_node(node.name)
    return spec is not None and spec.power is not None and not isinstance(spec.power, ManualPower)


def _switching(wanted: PowerAction) -> Callable[[Call], Awaitable[str]]:
    async def switch(call: Call) -> str:
        force = call.form.get("force") == "yes"
        call.controller.power.order(call.name, wanted, by=call.who, force=force)
        return f"power {wanted.value} of {call.name} is ordered"

    return switch


def _switching_plan(wanted: PowerAction) -> Callable[[Call], Awaitable[Plan]]:
    async def plan(call: Call) -> Plan:
        try:
            return Plan(steps=tuple(call.controller.power.preview(call.name, wanted)))
        except RefusedError as error:
            return Plan(problems=(" ".join(filter(None, (f"{error.message}.", error.hint))),))

    return plan


_FORCE: Final = Field("force", "Do it although it harms an installation or the quorum", is_check=True)


# Taking down and installing anew


def _can_be_taken_down(kind: ReimageKind) -> Callable[[Controller, NodeView], bool]:
    def is_offered(controller: Controller, node: NodeView) -> bool:
        with controller.store.read() as reader:
            order = open_order(reader, node.name)
        return order is None and State(node.state) in kind_states(kind)

    return is_offered


def kind_states(kind: ReimageKind) -> frozenset[State]:
    """States of nodes of which a page offers an order of this kind."""
    return {
        ReimageKind.REIMAGE: REIMAGE,
        ReimageKind.REPLACE: REPLACE,
        ReimageKind.DECOMMISSION: DECOMMISSION,
    }[kind]


def _has_order_in(states: frozenset[State]) -> Callable[[Controller, NodeView], bool]:
    def is_offered(controller: Controller, node: NodeView) -> bool:
        if State(node.state) not in states:
            return False
        with controller.store.read() as reader:
            return reader.open_reimage(node.name) is not None

    return is_offered


def _taking_down(kind: ReimageKind) -> Callable[[Call], Awaitable[str]]:
    async def take_down(call: Call) -> str:
        return await order_takedown(call.controller.reimages, kind, call.name, call.form, call.who)

    return take_down


def _takedown_plan(kind: ReimageKind) -> Callable[[Call], Awaitable[Plan]]:
    async def plan(call: Call) -> Plan:
        return await plan_takedown(call.controller.reimages, kind, call.name, call.form, call.who)

    return plan


async def _go_on(call: Call) -> str:
    with call.controller.store.read() as reader:
        order = reader.open_reimage(call.name)
    if order is None:
        raise RefusedError(409, "no-order", f"no order for {call.name} stands any more")
    return await order_takedown(call.controller.reimages, order.kind, call.name, call.form, call.who)


def _can_be_called_off(controller: Controller, node: NodeView) -> bool:
    with controller.store.read() as reader:
        order = reader.open_reimage(node.name)
    return order is not None and not is_cancelled(order) and can_be_called_off(order, State(node.state))


async def _cancel(call: Call) -> str:
    return call.controller.reimages.cancel(call.name, call.who)


# The fleet lock


def _keeps_others_back(controller: Controller, node: NodeView) -> bool:
    with controller.store.read() as reader:
        return any(hold.node == node.name and hold.stuck for hold in read_holds(reader))


async def _free_lock(call: Call) -> str:
    reason = printable(call.form.get("reason", ""), MAX_REASON)
    if not reason:
        raise RefusedError(400, "reason", "why its place is freed was not said", "Write it, for the record.")
    return call.controller.lock.release(call.name, by=call.who, reason=reason)


def _images(call: Call) -> Sequence[Choice]:
    return images_for(call.images, call.node.image_id)


_WHY: Final = Field("why", "Why, for the record")
_DRAIN: Final = Field(
    "force_drain", "Delete pods that do not leave in time, with what they keep on its disk", is_check=True
)


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
        name="go-on",
        operation="orderReimage",
        label="Go on where it stopped",
        question="The step that gave up is tried anew.",
        is_offered=_has_order_in(GO_ON),
        perform=_go_on,
    ),
    Action(
        name="cancel",
        operation="cancelReimage",
        label="Call it off",
        question="Nothing was removed yet: the node becomes what it was.",
        is_offered=_can_be_called_off,
        perform=_cancel,
    ),
    Action(
        name="reimage",
        operation="orderReimage",
        label="Re-image…",
        question="It is drained, taken out of the cluster, and installed again. What is on its disk is lost.",
        is_offered=_can_be_taken_down(ReimageKind.REIMAGE),
        perform=_taking_down(ReimageKind.REIMAGE),
        plan=_takedown_plan(ReimageKind.REIMAGE),
        fields=(Field("image", "With image", choices=_images), _DRAIN, _WHY),
        types_name=True,
    ),
    Action(
        name="free-lock",
        operation="releaseLock",
        label="Free its place of the fleet lock…",
        sentence="Free the place of {name}",
        question="Its re-image came to nothing, so it keeps others from being taken down. Then they may be, "
        "while it is not back: for a board that is known to be dead or on its way out.",
        is_offered=_keeps_others_back,
        perform=_free_lock,
        fields=(Field("reason", "Why, for its timeline and the audit", is_required=True),),
        types_name=True,
    ),
    Action(
        name="power-on",
        operation="orderPower",
        label="Switch on",
        question="Its outlet is switched on.",
        is_offered=_has_switch,
        perform=_switching(PowerAction.ON),
    ),
    Action(
        name="power-cycle",
        operation="orderPower",
        label="Power-cycle…",
        question="Its power is cut and comes back: what was not written to its disk is lost.",
        is_offered=_has_switch,
        perform=_switching(PowerAction.CYCLE),
        plan=_switching_plan(PowerAction.CYCLE),
        fields=(_FORCE,),
        asks=True,
    ),
    Action(
        name="power-off",
        operation="orderPower",
        label="Switch off…",
        question="Its power is cut until somebody switches it on: what was not written to its disk is lost.",
        is_offered=_has_switch,
        perform=_switching(PowerAction.OFF),
        plan=_switching_plan(PowerAction.OFF),
        fields=(_FORCE,),
        asks=True,
    ),
    Action(
        name="replace",
        operation="orderReimage",
        label="Replace its board…",
        question="Another board takes this node's name, and is installed for it.",
        is_offered=_can_be_taken_down(ReimageKind.REPLACE),
        perform=_taking_down(ReimageKind.REPLACE),
        plan=_takedown_plan(ReimageKind.REPLACE),
        fields=(Field("serial", "Serial of the new board, 8 or 16 digits", is_required=True), _DRAIN, _WHY),
        types_name=True,
        is_quiet=True,
    ),
    Action(
        name="decommission",
        operation="orderReimage",
        label="Decommission…",
        question="It is drained and leaves the cluster for good. Its disk is left as it is.",
        is_offered=_can_be_taken_down(ReimageKind.DECOMMISSION),
        perform=_taking_down(ReimageKind.DECOMMISSION),
        plan=_takedown_plan(ReimageKind.DECOMMISSION),
        fields=(_DRAIN, _WHY),
        types_name=True,
        is_quiet=True,
    ),
    Action(
        name="revoke",
        operation="revoke",
        label="Revoke…",
        question="Its certificate, tickets and open permissions are void at once. For a board or a disk that "
        "was stolen. What k3s gave the node is ended with 'kubectl delete node'.",
        is_offered=_is_member,
        perform=_revoke,
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
        perform=_forget_device,
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
