"""Where the data trees that travel with this package are: ``cloud-init`` (templates) and ``overlays``.

A wheel carries them in ``imagebuilder/_data``, a checkout has them at its top. Read only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from imagebuilder.errors import ImageBuilderError

Tree = Literal["cloud-init", "overlays"]


def data_dir(tree: Tree) -> Path:
    """The directory of one data tree.

    Raises:
        ImageBuilderError: the install is incomplete.
    """
    package = Path(__file__).resolve().parent
    places = (package / "_data" / tree, package.parent / tree)
    for place in places:
        if place.is_dir():
            return place
    raise ImageBuilderError(
        f"the data directory {tree!r} is missing; looked for {' and '.join(map(str, places))}",
        "The install is incomplete. Install Bramble again, or run it from a complete checkout.",
    )
