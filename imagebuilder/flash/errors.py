"""Errors of flashing."""

from __future__ import annotations

from imagebuilder.errors import ImageBuilderError


class FlashError(ImageBuilderError):
    """A medium cannot be written, or does not hold what was written to it."""


class TargetRefused(FlashError):
    """A disk that must not be written; nothing was touched."""

    exit_code = 2
