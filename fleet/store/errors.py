"""What can go wrong with the store, told by where it is."""

from __future__ import annotations

from fleet.errors import FleetError
from fleet.store_place import Place


class StoreError(FleetError):
    """The store cannot be used.

    Attributes:
        refuses_values: It can, but not keep these values: others it would take.
    """

    def __init__(self, message: str, hint: str, place: Place, *, refuses_values: bool = False) -> None:
        super().__init__(message, hint)
        self.place = place
        self.refuses_values = refuses_values


class NoRecordError(StoreError):
    """There is nothing to read yet."""

    def __init__(self, place: Place) -> None:
        super().__init__(
            f"there is no record of this cluster at {place}",
            "It is made by the first 'bramble serve'.",
            place,
        )
