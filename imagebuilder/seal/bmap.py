"""Block maps in the format of bmaptool, version 2.0.

Ranges are inclusive block numbers of 4096 bytes with a SHA-256 each. The file carries its own digest,
computed with the digest's characters replaced by zeros. Pure: values in, text out.

Source: bmap-tools 3.6, ``BmapCreate.py`` and the comment at the head of each file that it writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from imagebuilder.disk.blockmap import BLOCK_BYTES
from imagebuilder.seal.chunks import Chunk

_NO_DIGEST: Final = "0" * 64


def render_bmap(size_bytes: int, chunks: Iterable[Chunk]) -> str:
    """The block map of an image whose mapped bytes are ``chunks``, which lie on the block grid."""
    ranges, mapped = [], 0
    for chunk in chunks:
        first, last = chunk.offset // BLOCK_BYTES, (chunk.offset + chunk.length - 1) // BLOCK_BYTES
        mapped += last - first + 1
        span = f"{first}" if first == last else f"{first}-{last}"
        ranges.append(f'    <Range chksum="{chunk.sha256}"> {span} </Range>\n')
    text = (
        '<?xml version="1.0" ?>\n'
        '<bmap version="2.0">\n'
        f"  <ImageSize> {size_bytes} </ImageSize>\n"
        f"  <BlockSize> {BLOCK_BYTES} </BlockSize>\n"
        f"  <BlocksCount> {-(-size_bytes // BLOCK_BYTES)} </BlocksCount>\n"
        f"  <MappedBlocksCount> {mapped} </MappedBlocksCount>\n"
        "  <ChecksumType> sha256 </ChecksumType>\n"
        f"  <BmapFileChecksum> {_NO_DIGEST} </BmapFileChecksum>\n"
        "  <BlockMap>\n"
        f"{''.join(ranges)}"
        "  </BlockMap>\n"
        "</bmap>\n"
    )
    return text.replace(_NO_DIGEST, hashlib.sha256(text.encode()).hexdigest(), 1)
