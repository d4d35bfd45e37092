"""Understanding an image, from its content: ``inspect_image(path) -> ImageFacts``."""

from imagebuilder.inspect.facts import (
    BoardFacts,
    Dialect,
    Ext4Facts,
    FatFacts,
    ImageFacts,
    KernelFacts,
    RootReference,
    SystemFacts,
)
from imagebuilder.inspect.inspect import ImageNotUnderstood, inspect_image, inspect_source

__all__ = [
    "BoardFacts",
    "Dialect",
    "Ext4Facts",
    "FatFacts",
    "ImageFacts",
    "ImageNotUnderstood",
    "KernelFacts",
    "RootReference",
    "SystemFacts",
    "inspect_image",
    "inspect_source",
]
