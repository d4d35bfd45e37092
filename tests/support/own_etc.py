"""A program with an /etc of its own: this machine's, but for /etc/rancher, which holds what a test laid.

So k3s reads the very files that a node is handed, at the paths that they name, and nothing of this machine's
own k3s. The mounts are in a namespace of the program and go with it; in a user namespace no root is needed.
"""

from __future__ import annotations

from pathlib import Path

_SCRIPT = """\
set -e
room=$1 laid=$2
shift 2
mount -t tmpfs none "$room"
mkdir "$room/host" "$room/etc"
mount --rbind /etc "$room/host"
ln -s "$room"/host/* "$room/etc/"
rm -f "$room/etc/rancher"
cp -Rp "$laid" "$room/etc/rancher"
mount --bind "$room/etc" /etc
exec "$@"
"""


def with_own_etc(room: Path, laid: Path) -> list[str]:
    """What to put before a command.

    Args:
        room: An empty directory that nobody else uses.
        laid: What its /etc/rancher begins with; the command changes a copy.
    """
    return ["unshare", "--mount", "sh", "-c", _SCRIPT, "sh", str(room), str(laid)]
