"""What a form offers to choose from. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bramble.kept_images import KeptImage
from fleet.images import SHORT
from fleet.refusal import RefusedError


@dataclass(frozen=True, slots=True)
class Choice:
    """One line of a list. `value` is what the form sends; empty: as if nothing was chosen."""

    value: str
    label: str


def images_for(images: Sequence[KeptImage], present: str | None) -> list[Choice]:
    """Images that a node can be given; that of the cluster, the first of them, unless another is chosen.

    Args:
        present: What its disk holds.
    """
    found = [Choice(one.id, _label(one, place, present)) for place, one in enumerate(images)]
    current = Choice("", found[0].label if found else "the cluster's")
    return [current, *found[1:]]


def images_by_id(images: Sequence[KeptImage]) -> list[Choice]:
    """The same, each by its id."""
    return [Choice(one.id, _label(one, place, None)) for place, one in enumerate(images)]


def _label(one: KeptImage, place: int, present: str | None) -> str:
    remarks = ("the cluster's" if place == 0 else "", "on its disk now" if one.id == present else "")
    return ", ".join(filter(None, (one.short, f"{one.k3s} on {one.base}", *remarks)))


def require_choice(form: Mapping[str, str], name: str, choices: Sequence[Choice]) -> None:
    """Take nothing that was not offered.

    Raises:
        RefusedError: The form says something else.
    """
    value = form.get(name, "")
    if value and all(choice.value != value for choice in choices):
        raise RefusedError(
            409, name, f"{value[:SHORT]} is not there to choose any more", "Load the page anew, and choose."
        )


def require_choices(form: Mapping[str, str], choices: Mapping[str, Sequence[Choice]]) -> None:
    """The same for each field of a form, by its name."""
    for name, offered in choices.items():
        require_choice(form, name, offered)
