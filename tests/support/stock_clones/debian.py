"""Steps that several clones share: taking out what Bramble put into its base, accounts, ssh, cloud-init."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from stock_clones.tree import Tree

OS_RELEASE_BOOKWORM: Final = """\
PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
NAME="Debian GNU/Linux"
VERSION_ID="12"
VERSION="12 (bookworm)"
VERSION_CODENAME=bookworm
ID=debian
HOME_URL="https://www.debian.org/"
SUPPORT_URL="https://www.debian.org/support"
BUG_REPORT_URL="https://bugs.debian.org/"
"""


def neutralise(tree: Tree) -> None:
    """Remove Bramble's own settings from the tree of its base: a stock image has none of them."""
    tree.remove(
        "/etc/cloud/cloud.cfg.d/90_bramble.cfg",
        "/etc/systemd/system/cloud-init-main.service.d",
        "/etc/systemd/system/systemd-networkd-wait-online.service.d",
        "/etc/systemd/system-preset/00-bramble.preset",
        "/etc/systemd/network/90-dhcp.network",
        "/etc/apt/apt.conf.d/90-bramble-lean",
        "/etc/dpkg/dpkg.cfg.d/90-bramble-lean",
    )
    # The serial line of a virtual board is slow: without this, audit records would double the boot's time.
    # Stock images do not have it, and nothing but speed depends on it.
    tree.remove("/etc/systemd/journald.conf.d/10-bramble.conf")
    tree.put("/usr/lib/systemd/journald.conf.d/10-clone.conf", "[Journal]\nAudit=no\n")


def _edit_lines(tree: Tree, path: str, change: Callable[[list[str]], list[str]]) -> None:
    def edit(text: str) -> str:
        rows = [":".join(change(line.split(":"))) for line in text.splitlines()]
        return "".join(f"{row}\n" for row in rows if row)

    tree.edit(path, edit)


def add_group(tree: Tree, name: str, number: int) -> None:
    tree.edit("/etc/group", lambda text: f"{text}{name}:x:{number}:\n")
    tree.edit("/etc/gshadow", lambda text: f"{text}{name}:!::\n")


def join_groups(tree: Tree, user: str, groups: Iterable[str]) -> None:
    """Make ``user`` a member of these groups and no others."""
    wanted = set(groups)

    def change(fields: list[str]) -> list[str]:
        members = [name for name in fields[3].split(",") if name not in ("", user)]
        return [*fields[:3], ",".join([*members, user] if fields[0] in wanted else members)]

    _edit_lines(tree, "/etc/group", change)
    _edit_lines(tree, "/etc/gshadow", change)


def set_shell(tree: Tree, user: str, shell: str) -> None:
    _edit_lines(tree, "/etc/passwd", lambda row: [*row[:6], shell] if row[0] == user else row)


def remove_user(tree: Tree, user: str) -> None:
    """Take an account out of every table, with its home."""
    join_groups(tree, user, ())
    for table in ("passwd", "shadow", "group", "gshadow", "subuid", "subgid"):
        _edit_lines(tree, f"/etc/{table}", lambda row: [] if row[0] == user else row)
    tree.remove(f"/home/{user}")


def disable_ssh(tree: Tree) -> None:
    """As ``systemctl disable ssh``."""
    tree.remove("/etc/systemd/system/multi-user.target.wants/ssh.service", "/etc/systemd/system/sshd.service")


def remove_cloud_init(tree: Tree) -> None:
    """An image without cloud-init: neither programs nor units nor settings nor records of it."""
    tree.forget_package("cloud-init")
    tree.remove(
        "/etc/cloud",
        "/usr/lib/python3/dist-packages/cloudinit",
        "/etc/systemd/system/cloud-init.target.wants",
        "/etc/systemd/system/cloud-config.target.wants",
        "/var/lib/cloud",
        "/usr/share/doc/cloud-init",
    )
