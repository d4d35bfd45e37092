"""The lab's private network: a network namespace with one bridge, and a tap for each board.

Nothing of the host's network is seen or touched. Root enters a network namespace directly; anybody else gets
one inside a user namespace of their own, where they may do the same. The namespace lives as long as a process
is in it: nothing to clean up.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Final

from lab.errors import LabError
from lab.runner import run

BRIDGE: Final = "bramble0"
SERVER_INTERFACE: Final = IPv4Interface("10.77.0.1/24")
"""The host's own address on the bridge; the server under test listens there."""
BRIDGE_MAC: Final = "02:62:72:6d:62:6c"
"""Fixed (locally administered): else the bridge takes the lowest of its ports' addresses, and changes it with
a port that is added, while boards that asked before go on sending to the old one."""

_CLONE_NEWUSER: Final = 0x1000_0000
_CLONE_NEWNET: Final = 0x4000_0000
_USERNS_HINT: Final = (
    "Run it as root, or allow unprivileged user namespaces: sysctl kernel.unprivileged_userns_clone=1 "
    "(Debian), kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu)."
)


def enter_private_network() -> None:
    """Move this process into a network of its own, with `lo` up and the bridge at `SERVER_INTERFACE`.

    Must be called before any thread is started: a namespace belongs to a thread, and only threads that it
    starts later inherit it.

    Raises:
        LabError: There are threads already, or the kernel does not let us.
    """
    if threading.active_count() > 1:
        others = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
        raise LabError(f"the private network must be entered before any thread starts; running: {others}")
    uid, gid = os.geteuid(), os.getegid()
    is_inside = uid == 0 and _try_unshare(_CLONE_NEWNET)
    if not is_inside:
        if not _try_unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
            raise LabError("this machine does not allow a private network", _USERNS_HINT)
        _become_root_inside(uid, gid)
    run(["ip", "link", "set", "lo", "up"])
    # With STP or a forward delay the bridge would drop what a board sends in its first seconds.
    options = ["type", "bridge", "stp_state", "0", "forward_delay", "0"]
    run(["ip", "link", "add", "name", BRIDGE, "address", BRIDGE_MAC, *options])
    run(["ip", "address", "add", str(SERVER_INTERFACE), "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])


def has_private_network() -> bool:
    """Whether this process sees the lab's bridge."""
    return Path("/proc/self/net/dev").read_text("ascii").find(f"{BRIDGE}:") >= 0


def add_tap(name: str) -> None:
    """Add a persistent tap device to the bridge; a board's bootloader and QEMU take turns on it.

    Raises:
        LabError: No bridge, no permission, no /dev/net/tun.
    """
    if len(name) > 15:
        raise LabError(f"{name!r} is {len(name)} characters long, an interface name has at most 15")
    require_tun()
    run(["ip", "tuntap", "add", "dev", name, "mode", "tap"])
    run(["ip", "link", "set", name, "master", BRIDGE, "up"])


def remove_tap(name: str) -> None:
    """Remove a tap device."""
    run(["ip", "link", "delete", name])


def require_tun() -> None:
    """Check that tap devices can be made.

    Raises:
        LabError: The device node is missing or forbidden.
    """
    device = Path("/dev/net/tun")
    if not device.exists():
        raise LabError(
            "/dev/net/tun does not exist: virtual boards can not be wired up",
            "Load the module with `modprobe tun`; give a container the device (--device /dev/net/tun).",
        )
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        raise LabError(
            f"/dev/net/tun can not be opened: {exc.strerror}",
            "Make it accessible to your user (chmod 0666 /dev/net/tun is the usual mode), or run as root.",
        ) from exc


def _try_unshare(flags: int) -> bool:
    """unshare(2); False where the kernel forbids it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) == 0:
        return True
    number = ctypes.get_errno()
    # ENOSPC: the limit of user namespaces (user.max_user_namespaces) is zero or used up.
    if number in (errno.EPERM, errno.EACCES, errno.ENOSPC):
        return False
    raise LabError(f"unshare failed: {os.strerror(number)}")


def _become_root_inside(uid: int, gid: int) -> None:
    """Map our user to root of the new user namespace; setgroups is given up first (user_namespaces(7))."""
    me = Path("/proc/self")
    try:
        (me / "setgroups").write_text("deny")
        (me / "uid_map").write_text(f"0 {uid} 1")
        (me / "gid_map").write_text(f"0 {gid} 1")
    except OSError as exc:  # AppArmor lets the namespace be made and then takes its rights away
        raise LabError(f"the private network can not be set up: {exc}", _USERNS_HINT) from exc
