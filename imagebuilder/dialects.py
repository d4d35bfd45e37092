"""What Bramble does differently for each first-boot dialect, as data: the one place where that stands.

A base with cloud-init gets its seed on the boot partition, and cloud-init makes the user and the network at
first boot. A base without (Raspberry Pi OS bookworm; rpi-preseed) gets the same result in place: account,
keys, time zone, host name and network are files of its root filesystem, so nothing has to run for them. Its
own first-boot program is taken out of the way: it would also give the disk a new signature behind the node
delta's back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from imagebuilder.inspect.facts import Dialect
from imagebuilder.slots import SlotFile, Volume

META_DATA: Final = SlotFile(
    name="meta-data",
    volume=Volume.BOOT,
    path="/meta-data",
    size_bytes=1024,
    placeholder="instance-id: bramble-image\ndsmode: local\n",
)
NETWORK_CONFIG: Final = SlotFile(
    name="network-config",
    volume=Volume.BOOT,
    path="/network-config",
    size_bytes=4096,
    placeholder='network:\n  version: 2\n  ethernets:\n    "e*":\n      dhcp4: true\n',
)
NODE_JSON: Final = SlotFile(
    name="node-json",
    volume=Volume.ROOT,
    path="/etc/bramble/node.json",
    size_bytes=8192,
    placeholder="{}\n",
    mode=0o600,
)
HOSTNAME: Final = SlotFile(
    name="hostname", volume=Volume.ROOT, path="/etc/hostname", size_bytes=256, placeholder="raspberrypi\n"
)
HOSTS: Final = SlotFile(
    name="hosts",
    volume=Volume.ROOT,
    path="/etc/hosts",
    size_bytes=1024,
    placeholder="127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 raspberrypi\n",
)
CONNECTION: Final = SlotFile(
    name="network-connection",
    volume=Volume.ROOT,
    path="/etc/NetworkManager/system-connections/bramble.nmconnection",
    size_bytes=4096,
    placeholder="[connection]\nid=bramble\ntype=ethernet\n\n[ipv4]\nmethod=auto\n\n[ipv6]\nmethod=auto\n",
    # NetworkManager ignores a connection that others may read.
    mode=0o600,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How one dialect is written.

    Attributes:
        slots: the files that a node's delta fills.
        overlays: Bramble's own overlays that it gets.
        cmdline: words at the end of the kernel's command line, in this order.
        masked_units: units of the stock system that would ask questions or undo what is set, where present.
        enabled_units: units of the stock system that are off and must be on, where present.
        in_place: whether account, keys and time zone are written into the root filesystem.
        templates: the folder of ``cloud-init/``, None without cloud-init.
    """

    slots: tuple[SlotFile, ...]
    overlays: tuple[str, ...]
    cmdline: tuple[str, ...]
    masked_units: tuple[str, ...]
    enabled_units: tuple[str, ...]
    in_place: bool
    templates: str | None


_CGROUPS: Final = ("cgroup_enable=cpuset", "cgroup_enable=memory")
"""The device tree of Raspberry Pi OS says ``cgroup_disable=memory``; the last word wins, so these come after
everything else (raspberrypi/linux#6980)."""
_CLOUD_INIT_SLOTS: Final = (META_DATA, NETWORK_CONFIG, NODE_JSON)
_COMMON: Final = ("base-tuning", "agent", "k3s")
_IN_PLACE: Final = Manner(
    slots=(HOSTNAME, HOSTS, CONNECTION, NODE_JSON),
    overlays=(*_COMMON, "raspios", "first-boot"),
    cmdline=_CGROUPS,
    # The first asks for a user name on the console until somebody answers; the second makes a swap file.
    masked_units=("userconfig.service", "dphys-swapfile.service"),
    enabled_units=("ssh.service",),
    in_place=True,
    templates=None,
)
MANNERS: Final = {
    Dialect.RASPIOS_BOOKWORM: _IN_PLACE,
    Dialect.RPI_PRESEED: _IN_PLACE,
    Dialect.RASPIOS_TRIXIE: Manner(
        slots=_CLOUD_INIT_SLOTS,
        overlays=(*_COMMON, "cloud-init", "raspios"),
        cmdline=(*_CGROUPS, "ds=nocloud"),
        masked_units=("userconfig.service",),
        enabled_units=("ssh.service",),
        in_place=False,
        templates="raspios-trixie",
    ),
    Dialect.UBUNTU: Manner(
        slots=_CLOUD_INIT_SLOTS,
        overlays=(*_COMMON, "cloud-init"),
        cmdline=(*_CGROUPS, "ds=nocloud"),
        masked_units=(),
        enabled_units=(),
        in_place=False,
        templates="ubuntu",
    ),
    Dialect.DEBIAN: Manner(
        slots=_CLOUD_INIT_SLOTS,
        overlays=(*_COMMON, "cloud-init"),
        cmdline=(*_CGROUPS, "ds=nocloud"),
        masked_units=(),
        enabled_units=(),
        in_place=False,
        templates="debian",
    ),
}
"""Dialect → how it is written."""
