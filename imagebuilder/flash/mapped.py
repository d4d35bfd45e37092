"""A foreign image with its block map: what the map names is written, if the image is what the map says."""

from __future__ import annotations

from pathlib import Path

from imagebuilder.disk.source import open_source
from imagebuilder.flash.errors import FlashError
from imagebuilder.flash.source import Piece, split_range
from imagebuilder.seal.bmap_reader import BmapError, find_damage, is_bmap, load_bmap

HEAD_BYTES = 4096


def mapped_pieces(image: Path, block_map: Path) -> tuple[Piece, ...]:
    """The pieces of ``image`` that its block map names, each range of which was read and compared.

    Raises:
        FlashError: the image is a block map itself.
        BmapError: the map is none, contradicts itself, or the image is not the one that it is of.
    """
    with image.open("rb") as file:
        if is_bmap(file.read(HEAD_BYTES)):
            raise FlashError(
                f"{image} is a block map, not an image", "Give the image with --image, its map with --bmap."
            )
    found = load_bmap(block_map)
    with open_source(image) as source:
        damage = list(find_damage(found, source, image.stat().st_size))
    if damage:
        raise BmapError([f"{image.name}: {problem}" for problem in damage])
    return tuple(piece for mapped in found.byte_ranges() for piece in split_range(mapped.start, mapped.end))
