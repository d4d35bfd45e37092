"""What the image's own unit asks before it starts a server's k3s."""

from __future__ import annotations

import subprocess
from pathlib import Path

_REQUIRE_ETCD = Path(__file__).parents[2] / "overlays/k3s/rootfs/usr/lib/bramble/require-etcd"


def unit_starts(root: Path, data: Path) -> bool:
    """Whether it would start k3s on a node whose / is `root` and whose /var/lib/rancher/k3s is `data`."""
    argv = ["sh", str(_REQUIRE_ETCD), str(root), str(data)]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0
