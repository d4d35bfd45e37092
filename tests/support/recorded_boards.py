"""Boards as files: `boards/*.json` hold what their kernels show in /proc, /sys and the device tree."""

from __future__ import annotations

import json
from pathlib import Path

from agent_nodes import make_node_root, write_tree

BOARDS = Path(__file__).with_name("boards")


def make_board_root(name: str, root: Path) -> Path:
    """The tree of a recorded board below `root`.

    `files` are texts, `cells` device tree numbers (4 bytes, big endian), `links` symbolic links within the
    tree.
    """
    board = json.loads((BOARDS / f"{name}.json").read_text())
    write_tree(make_node_root(root), {**board["files"], **board["targets"]})
    write_tree(root, {path: int(cell).to_bytes(4, "big") for path, cell in board["cells"].items()})
    for path, target in board["links"].items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / target).mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(root / target)
    return root
