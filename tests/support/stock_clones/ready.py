"""A clone for a test; the base is built first where the store lacks it (minutes, and a Debian mirror)."""

from __future__ import annotations

import os

from bramble.demo import ensure_base
from bramble.demo_screen import PlainScreen
from bramble.paths import MIRROR_VARIABLE, store
from stock_clones.make import Clone, make_clone


def ready_clone(name: str) -> Clone:
    """The clone of a stock image, from the user's store."""
    ensure_base(store(), PlainScreen(), mirror=os.environ.get(MIRROR_VARIABLE))
    return make_clone(name, store())
