"""The fleet lock's keeper: shows it, removes rows of owners that have ended, frees a place for a person."""

from __future__ import annotations

from fleet.ground import Ground
from fleet.lock import Hold, drop_ended, hold_of, read_holds
from fleet.refusal import RefusedError
from fleet.timeline import Entry, Kind


class LockDesk:
    """One per controller."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def holds(self) -> tuple[Hold, ...]:
        """Every hold that counts, the oldest first."""
        with self._ground.store.read() as reader:
            return read_holds(reader)

    def tick(self) -> None:
        """Remove rows that count no more. Nothing depends on when: they do not count while they are there."""
        with self._ground.store.read() as reader:
            ended = [
                record.node
                for record in reader.holds()
                if hold_of(record, reader.node(record.node), reader.reimage(record.node, record.number))
                is None
            ]
        if ended:
            with self._ground.store.write() as tx:
                drop_ended(tx)

    def release(self, name: str, *, by: str, reason: str) -> str:
        """Free a node's place, so that others of its role may be taken down; what was done, for people.

        Raises:
            RefusedError: It holds none, or its re-image is under way: two could be down at once then.
        """
        now = self._ground.clock()
        with self._ground.store.write() as tx:
            node = tx.node(name)
            hold = next((hold for hold in read_holds(tx) if hold.node == name), None)
            if node is None or hold is None:
                raise RefusedError(
                    404 if node is None else 409,
                    "lock",
                    f"{name!r} holds no place of the fleet lock",
                    "'bramble lock show' lists who does.",
                )
            if not hold.stuck:
                raise RefusedError(
                    409,
                    "lock",
                    f"the re-image of {name} is under way ({hold.state}); the lock is there against another "
                    "one beside it",
                    f"Call it off first: 'bramble cancel {name}'.",
                )
            tx.remove_hold(name)
            text = f"{by} freed its place of the fleet lock: {reason}"
            hint = f"Others may be re-imaged while {name} is down; 'bramble nodes' shows what is left."
            tx.add_event(Entry(kind=Kind.LOCK, text=text, hint=hint), now, node=name, board=node.board_id)
        return f"{name} holds the fleet lock no more"
