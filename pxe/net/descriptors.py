"""How many files and connections this process may have open."""

from __future__ import annotations

import logging
import resource

log = logging.getLogger(__name__)


def raise_descriptor_limit() -> int:
    """Let this process open as many files as it may; how many that are. Linux knows no "unlimited" here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # a sandbox forbids it
        log.debug("descriptor limit not raised", extra={"error": str(error)})
        return soft
    return hard
