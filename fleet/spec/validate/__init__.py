"""The checks that look at more than one value; each module knows one subject.

A check is a generator of findings over a `Draft`. It must bear any value being absent: a faulty one was
reported and taken out before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from fleet.spec.draft import Draft
from fleet.spec.shape import Finding
from fleet.spec.validate.files import check_files
from fleet.spec.validate.k3s import check_k3s
from fleet.spec.validate.network import check_network
from fleet.spec.validate.nodes import check_nodes
from fleet.spec.validate.policy import check_policy
from fleet.spec.validate.power import check_power
from fleet.spec.validate.required import check_required

_CHECKS: Final[tuple[Callable[[Draft], Iterator[Finding]], ...]] = (
    check_required,
    check_nodes,
    check_power,
    check_network,
    check_k3s,
    check_files,
    check_policy,
)


def validate(draft: Draft) -> list[Finding]:
    """Run every check."""
    return [finding for check in _CHECKS for finding in check(draft)]
