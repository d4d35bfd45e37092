"""Preflight: what an image would do at its first boot, told before anything is flashed or booted.

``gather`` reads an image into ``Evidence``; the rules are pure functions from evidence to findings.
"""

from imagebuilder.preflight.evidence import Entry, Evidence, Expected, Tree
from imagebuilder.preflight.finding import Finding, Severity
from imagebuilder.preflight.gather import open_evidence
from imagebuilder.preflight.rules import check_image

__all__ = [
    "Entry",
    "Evidence",
    "Expected",
    "Finding",
    "Severity",
    "Tree",
    "check_image",
    "open_evidence",
]
