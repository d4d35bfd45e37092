"""Installations that a person makes: a card, or a file, is given one node's own image.

The permission is the same numbered intent that a netboot would use, so both can not happen to one node at
once: the card's end closes the intent, and from then on the board is answered "not for you".
"""

from __future__ import annotations

from typing import Final

from fleet import events
from fleet.ground import Ground
from fleet.handout import Handout
from fleet.installs import ControlInfo, instance_id, new_disk_signature
from fleet.lifecycle import Happening, State, allows
from fleet.printable import printable
from fleet.refusal import RefusedError, no_such_node
from fleet.store.records import NodeRecord
from fleet.store.transaction import Reader

FLASHED: Final = "flashed"
MEDIUM_CHARACTERS: Final = 120


class HandoutDesk:
    """Gives out nodes' values, and closes the intent when they were written."""

    def __init__(self, ground: Ground, control: ControlInfo) -> None:
        self._ground = ground
        self._control = control

    def begin(self, name: str) -> Handout:
        """The values of a new installation of node `name`.

        Tickets of earlier ones are void from now on: of two cards for one node only the newer enrols.

        Raises:
            RefusedError: The node is not declared, an installer is at work on it, or it is installed.
        """
        ground, now = self._ground, self._ground.clock()
        with ground.store.write() as tx:
            node = _require(tx, name)
            intent = ground.open_new_intent(tx, name, now)
            tx.unbind_board(name)  # nobody knows yet which board the card will be put into
            ticket = ground.pki.ticket(name, intent.number, node.standing.attempt)
            tx.add_ticket(ticket.sha256, name, intent.number, node.standing.attempt, now)
            node = tx.update_node(node, disk_signature=new_disk_signature(ground))
            tx.add_event(events.handout_begun(intent.number), now, node=name, board=node.board_id)
        ground.on_boot_change()
        return Handout(
            node=name,
            intent=intent.number,
            ticket=ticket,
            disk_signature=node.disk_signature or 0,
            instance_id=instance_id(ground, node, intent),
            control_urls=self._control.urls,
            ca_pem=self._control.ca_pem,
        )

    def finish(self, name: str, number: int, *, image_id: str, medium: str) -> None:
        """The image was written and read back. A repeat is accepted: its first answer got lost.

        Raises:
            RefusedError: Another installation of the node began meanwhile.
        """
        ground, now = self._ground, self._ground.clock()
        with ground.store.write() as tx:
            node = _require(tx, name)
            intent = tx.open_intent(name)
            if intent is None or intent.number != number:
                if node.state is State.FLASHED and tx.next_intent_number(name) == number + 1:
                    return
                raise RefusedError(
                    409,
                    "intent-closed",
                    f"another installation of {name} began since this image was given out",
                    "What was written will not be let in. Write it again, or let the other one finish.",
                )
            tx.close_intent(intent, FLASHED, now)
            tx.move(
                node,
                Happening.HANDED_OUT,
                events.handed_out(printable(medium, MEDIUM_CHARACTERS), number),
                now,
                image_id=printable(image_id, MEDIUM_CHARACTERS),
                certificate=None,
                previous_certificate=None,
                agent_key=None,
            )
        ground.on_boot_change()


def _require(reader: Reader, name: str) -> NodeRecord:
    node = reader.node(name)
    if node is None:
        raise no_such_node(name, (known.name for known in reader.nodes()), "cluster.yaml has no node")
    if not allows(node.state, Happening.HANDED_OUT):
        raise RefusedError(
            409,
            "state",
            f"node {name} is '{node.state}': a second disk with its name would be a second {name}",
            "Wait for the installation that is under way to end."
            if node.state is State.IMAGING
            else "Only a node that is not installed yet can be written to a card.",
        )
    return node
