"""All rules, in the order in which a board meets what they are about. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from imagebuilder.preflight.evidence import Evidence
from imagebuilder.preflight.finding import Finding, Severity
from imagebuilder.preflight.rules_boot import (
    check_boards,
    check_cmdline,
    check_memory_cgroup,
    check_references,
)
from imagebuilder.preflight.rules_expected import check_expected
from imagebuilder.preflight.rules_root import check_k3s, check_units
from imagebuilder.preflight.rules_seed import check_cloud_init, check_other_seeds

Rule = Callable[[Evidence], Iterator[Finding]]
RULES: Final[tuple[Rule, ...]] = (
    check_boards,
    check_cmdline,
    check_references,
    check_memory_cgroup,
    check_cloud_init,
    check_other_seeds,
    check_units,
    check_k3s,
    check_expected,
)
_ORDER: Final = tuple(Severity)


def check_image(evidence: Evidence) -> tuple[Finding, ...]:
    """Everything that the rules find, each thing once: errors first, then in the order of the boot."""
    found = dict.fromkeys(finding for rule in RULES for finding in rule(evidence))
    return tuple(sorted(found, key=lambda finding: _ORDER.index(finding.severity)))
