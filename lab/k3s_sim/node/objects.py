"""Words about Kubernetes objects that every part of the simulator shares."""

from __future__ import annotations

import time
from typing import Any

Object = dict[str, Any]
"""A Kubernetes object, as JSON."""


def timestamp(now: float) -> str:
    """RFC 3339, whole seconds, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
