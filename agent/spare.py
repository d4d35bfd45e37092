"""Leaves out a part of Python's library that the service would carry in memory and never use.

`dataclasses` imports `inspect`, and that Python's parser and disassembler, to write the signature of a class
into its documentation (from Python 3.12 to 3.13 also to read its annotations). Nobody reads the former on a
node, and it takes 0.8 MiB of the 25 MB that the service may have. So a stand-in comes first: its signatures
are empty, it knows the annotations of classes, and whoever asks it for anything else gets the real module.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import types
from typing import Any

NAME = "inspect"


class _StandIn(types.ModuleType):
    """In the place of `inspect` until something is asked for that is not here."""

    @staticmethod
    def signature(*_arguments: object, **_words: object) -> str:
        return ""

    @staticmethod
    def get_annotations(kind: type) -> dict[str, Any]:
        """Those of the class itself, as they are written."""
        return dict(vars(kind).get("__annotations__", {}))

    def __getattr__(self, name: str) -> Any:
        """What is not here; the real module has it."""
        if sys.modules.get(NAME) is self:
            del sys.modules[NAME]
        return getattr(importlib.import_module(NAME), name)


def spare_memory() -> None:
    """Call it before anything imports `dataclasses`; later it changes nothing."""
    if NAME not in sys.modules:
        module = _StandIn(NAME)
        module.__spec__ = importlib.machinery.ModuleSpec(NAME, None)
        sys.modules[NAME] = module
