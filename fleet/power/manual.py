"""Boards that a hand switches: every order says what the hand has to do."""

from __future__ import annotations

from typing import NoReturn

from fleet.power.driver import PersonNeededError, PowerState


class ManualDriver:
    """Switches nothing."""

    def __init__(self, node: str) -> None:
        self._node = node

    async def on(self) -> None:
        self._ask(f"plug in the power of {self._node}")

    async def off(self) -> None:
        self._ask(f"pull the power plug of {self._node}")

    async def state(self) -> PowerState:
        return PowerState.UNKNOWN

    def _ask(self, what: str) -> NoReturn:
        raise PersonNeededError(
            f"nothing switches {self._node} but a person: {what}",
            "A switched plug or a PoE port can be declared with 'power' in cluster.yaml: docs/power.md.",
        )
